import assert from 'node:assert/strict'
import type { ModelConfig, Precision } from './config.ts'
import { expertGraph } from './graph/ffn.ts'
import type { Graph } from './graph/onnx.ts'
import { pickRows, type TokenRows } from './rows.ts'
import { type Device, float32, openSession, type Session, uint8 } from './session.ts'
import { GPU_ROWS, openTiles } from './tiles.ts'

/** An expert and the rows of a frame that go through it, by index. */
export type Group = { expert: Session; index: Uint32Array }

export type ExpertSource = { config: ModelConfig; precision: Precision; folder: string; shard: string }

/** How a device runs experts. A row's bits do not depend on what runs beside it. */
export type Kernels = {
  open(source: ExpertSource): Promise<Session>
  /**
   * Takes every group's rows of x [n,hidden] through its expert, and hands over the results float32 [m,hidden] in the order of the
   * groups, `begin` rows after the first, piece by piece. Blocks the thread while the kernels run.
   */
  run(
    x: TokenRows,
    hidden: number,
    groups: readonly Group[],
    store: (values: Float32Array, begin: number) => void,
  ): Promise<void>
  close(): Promise<void>
}

export type KernelOptions = { device: Device; threads: number }

/** Opens a graph over its shard; `keep`: its outputs stay on the device. */
export type OpenGraph = (graph: Graph, shard: { folder: string; shard: string }, keep: boolean) => Promise<Session>

/** @throws MeshError FAILED_PRECONDITION when the device cannot be had. */
export const openKernels = async (options: KernelOptions): Promise<Kernels> => {
  const open: OpenGraph = (graph, shard, keep) => openSession(graph, { ...shard, ...options, keep, frugal: true })
  // Where results cannot stay on the device (CUDA), they are better fetched by their own run than by another one.
  if (options.device === 'webgpu') return openTiles(open)
  return oneByOne(open, options.device === 'cpu' ? runRows : runPadded)
}

/** Experts one after the other, each over rows picked for it. */
export const oneByOne = (open: OpenGraph, run: typeof runRows): Kernels => ({
  open: ({ config, precision, ...shard }) => open(expertGraph(config, precision), shard, false),
  async run(x, hidden, groups, store) {
    let begin = 0
    for (const { expert, index } of groups) {
      store(await run(expert, pickRows(x, index, hidden), hidden), begin)
      begin += index.length
    }
  },
  close: async () => {},
})

/** One expert over all rows of x [n,hidden]; float32 [n,hidden]. */
export const runExpert = async (
  kernels: Kernels,
  expert: Session,
  x: TokenRows,
  hidden: number,
): Promise<Float32Array> => {
  const results = new Float32Array(x.rows.length)
  const index = Uint32Array.from({ length: x.rows.length / hidden }, (_, i) => i)
  await kernels.run(x, hidden, [{ expert, index }], (values, begin) => results.set(values, begin * hidden))
  return results
}

const runRows = async (session: Session, { rows, rowScale }: TokenRows, hidden: number): Promise<Float32Array> => {
  const dims = [rows.length / hidden, hidden]
  if (rows instanceof Float32Array) return (await session.run({ rows: float32(rows, dims) })).y.data as Float32Array
  assert(rowScale)
  const { y } = await session.run({ rows: uint8(rows, dims), scale: float32(rowScale, [rowScale.length, 1]) })
  return y.data as Float32Array
}

/** The same in blocks of GPU_ROWS, the last rows zero. */
export const runPadded = async (session: Session, { rows }: TokenRows, hidden: number): Promise<Float32Array> => {
  assert(rows instanceof Float32Array)
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
