import assert from 'node:assert/strict'
import { Code, MeshError } from '../errors.ts'
import type { ModelConfig, Precision } from './config.ts'
import { modelHash, openModel } from './open.ts'
import { type LayerExperts, partGraph, shardName } from './part.ts'
import { pickRows, roomLike, storeRows, type TokenRows } from './rows.ts'
import { type Device, float32, openSession, type Session, uint8 } from './session.ts'
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

export type ExpertsOptions = {
  modelDir: string
  cacheDir: string
  precision: Precision
  device: Device
  threads: number
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
  const sessions = new Map<string, Session>()

  const load = async (layer: number, expert: number): Promise<void> => {
    if (sessions.has(key(layer, expert))) return
    const part = { kind: 'expert', layer, expert } as const
    const session = await openSession(partGraph(config, part, precision), {
      folder,
      shard: shardName(part),
      threads,
      device,
      frugal: true,
    })
    const bytes = { rows: new Uint8Array(config.hidden), rowScale: new Float32Array(1) }
    const floats = { rows: new Float32Array(config.hidden), rowScale: null }
    await runExpert(session, device, precision === 'int8' ? bytes : floats, config.hidden)
    sessions.set(key(layer, expert), session)
  }

  const run = async (frame: ExpertFrame): Promise<TokenRows> => {
    const { rowIndex, expert, hidden, layer } = frame
    const results = roomLike(frame, rowIndex.length, hidden)
    for (let begin = 0; begin < expert.length; ) {
      let end = begin + 1
      while (end < expert.length && expert[end] === expert[begin]) end++
      const session = sessions.get(key(layer, expert[begin]))
      assert(session, `expert ${expert[begin]} of layer ${layer} is not held`)
      const x = pickRows(frame, rowIndex.subarray(begin, end), hidden)
      storeRows(await runExpert(session, device, x, hidden), results, hidden, begin)
      begin = end
    }
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

/**
 * A GPU picks its kernel by the number of rows, and kernels add up in different orders. So every run there has this many, the last
 * ones zero, and a row's bits cannot depend on how many came with it.
 */
const GPU_ROWS = 64

/** One expert over rows [n,hidden]; float32 [n,hidden]. Blocks the thread while the kernels run. */
export const runExpert = async (
  session: Session,
  device: Device,
  { rows, rowScale }: TokenRows,
  hidden: number,
): Promise<Float32Array> => {
  const count = rows.length / hidden
  if (rows instanceof Uint8Array) {
    assert(rowScale && device === 'cpu')
    const { y } = await session.run({ rows: uint8(rows, [count, hidden]), scale: float32(rowScale, [count, 1]) })
    return y.data as Float32Array
  }
  if (device !== 'cpu') return runPadded(session, rows, hidden)
  const { y } = await session.run({ rows: float32(rows, [count, hidden]) })
  return y.data as Float32Array
}

const runPadded = async (session: Session, rows: Float32Array, hidden: number): Promise<Float32Array> => {
  const results = new Float32Array(rows.length)
  const block = new Float32Array(GPU_ROWS * hidden)
  for (let begin = 0; begin < rows.length; begin += block.length) {
    const part = rows.subarray(begin, begin + block.length)
    block.set(part)
    block.fill(0, part.length)
    const { y } = await session.run({ rows: float32(block, [GPU_ROWS, hidden]) })
    results.set((y.data as Float32Array).subarray(0, part.length), begin)
  }
  return results
}
