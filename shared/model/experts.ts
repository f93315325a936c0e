import assert from 'node:assert/strict'
import { Code, MeshError } from '../errors.ts'
import type { ModelConfig, Precision } from './config.ts'
import { type Group, type KernelOptions, openKernels, runExpert } from './kernels.ts'
import { modelHash, openModel } from './open.ts'
import { type LayerExperts, partGraph, shardName } from './part.ts'
import { roomLike, storeRows, type TokenRows } from './rows.ts'
import type { Device, Session } from './session.ts'
import { shardFolder } from './shard.ts'

/** Token rows of one layer [T,H], each once, and the assignments: row rowIndex[i] goes through expert expert[i]. */
export type ExpertFrame = TokenRows & {
  layer: number
  rowCount: number
  hidden: number
  /** [A] */
  rowIndex: Uint32Array
  /** [A], ascending. */
  expert: Uint32Array
}

/** Experts of one model, ready to run in this thread. */
export type Experts = {
  readonly config: ModelConfig
  readonly heldBytes: number
  holds(layer: number, expert: number): boolean
  held(): { layer: number; experts: number[] }[]
  /** Opens an expert whose shard is on disk, and warms it. */
  load(layer: number, expert: number): Promise<void>
  unload(layer: number, expert: number): Promise<void>
  /** Unweighted rows [A,H] of the frame's kind, in the order of the assignments. Blocks the thread while a kernel runs. */
  run(frame: ExpertFrame): Promise<TokenRows>
  close(): Promise<void>
}

export type ExpertsOptions = KernelOptions & {
  modelDir: string
  cacheDir: string
  precision: Precision
}

/** @throws MeshError FAILED_PRECONDITION for int8 on a device that is not the CPU. */
export const openExperts = async (options: ExpertsOptions): Promise<Experts> => {
  const { modelDir, cacheDir, precision, device, threads } = options
  checkPrecision(device, precision)
  const model = await openModel(modelDir)
  const { config } = model
  const folder = shardFolder(cacheDir, await modelHash(model, precision, cacheDir))
  await model.close()
  const shardBytes = partGraph(config, { kind: 'expert', layer: 0, expert: 0 }, precision).shardBytes
  const kernels = await openKernels({ device, threads })
  const sessions = new Map<string, Session>()

  const load = async (layer: number, expert: number): Promise<void> => {
    if (sessions.has(key(layer, expert))) return
    const shard = shardName({ kind: 'expert', layer, expert })
    const session = await kernels.open({ config, precision, folder, shard })
    const bytes = { rows: new Uint8Array(config.hidden), rowScale: new Float32Array(1) }
    const floats = { rows: new Float32Array(config.hidden), rowScale: null }
    await runExpert(kernels, session, precision === 'int8' ? bytes : floats, config.hidden)
    sessions.set(key(layer, expert), session)
  }

  const run = async (frame: ExpertFrame): Promise<TokenRows> => {
    const { rowIndex, expert, hidden, layer } = frame
    const results = roomLike(frame, rowIndex.length, hidden)
    const groups: Group[] = []
    for (let begin = 0; begin < expert.length; ) {
      let end = begin + 1
      while (end < expert.length && expert[end] === expert[begin]) end++
      const session = sessions.get(key(layer, expert[begin]))
      assert(session, `expert ${expert[begin]} of layer ${layer} is not held`)
      groups.push({ expert: session, index: rowIndex.subarray(begin, end) })
      begin = end
    }
    await kernels.run(frame, hidden, groups, (values, begin) => storeRows(values, results, hidden, begin))
    return results
  }

  return {
    config,
    get heldBytes() {
      return sessions.size * shardBytes
    },
    holds: (layer, expert) => sessions.has(key(layer, expert)),
    held: () => heldExperts([...sessions.keys()]),
    load,
    async unload(layer, expert) {
      const session = sessions.get(key(layer, expert))
      sessions.delete(key(layer, expert))
      await session?.close()
    },
    run,
    async close() {
      for (const session of sessions.values()) await session.close()
      sessions.clear()
      await kernels.close()
    },
  }
}

/** Kernels that sum int8 products exactly exist for the CPU alone; left to itself ONNX Runtime would run those parts there. */
const checkPrecision = (device: Device, precision: Precision): void => {
  if (device === 'cpu' || precision === 'fp32') return
  const cause = `${precision} runs on the CPU alone, and experts are to run on ${device}`
  throw new MeshError(Code.FAILED_PRECONDITION, `${cause}; use --precision fp32 or --device cpu`)
}

const key = (layer: number, expert: number): string => `${layer}/${expert}`

const heldExperts = (keys: readonly string[]): { layer: number; experts: number[] }[] => {
  const layers = new Map<number, number[]>()
  for (const [layer, expert] of keys.map((k) => k.split('/').map(Number))) {
    layers.set(layer, [...(layers.get(layer) ?? []), expert])
  }
  return [...layers].map(([layer, experts]): LayerExperts & { experts: number[] } => ({
    layer,
    experts: experts.sort((a, b) => a - b),
  }))
}
