import { createHash, type Hash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Code, MeshError } from '../errors.ts'
import type { ModelConfig, Precision } from './config.ts'
import { attentionGraph, outputGraph, projectGraph } from './graph/attend.ts'
import { expertGraph } from './graph/ffn.ts'
import { inputRows, linear } from './graph/linear.ts'
import { Graph } from './graph/onnx.ts'
import { type KernelOptions, openKernels, runExpert } from './kernels.ts'
import { roomLike, storeRows } from './rows.ts'
import { float32, int64, openSession, type Session, type Tensor, uint8 } from './session.ts'

const HIDDEN = 96
const ROWS = 64
const BLOCKS = [1, 2, 3, 16, ROWS]
const BLOCKS_PER_SIZE = 8

/** Odd sizes on purpose: tails of vector loops, and of int4's blocks, are where kernels differ. */
export const config: ModelConfig = {
  family: 'probe',
  vocabulary: 32,
  hidden: HIDDEN,
  contextLength: 128,
  norm: { kind: 'rms', placement: 'pre', eps: 1e-6 },
  positions: { kind: 'rope', layout: 'half', dim: 20, theta: 10_000, scaling: { kind: 'none' } },
  attention: {
    kind: 'gqa',
    heads: 4,
    kvHeads: 2,
    headDim: 20,
    scale: 20 ** -0.5,
    bias: { q: false, k: false, v: false, o: false },
    qkNorm: 'head',
    clip: null,
  },
  embedding: { scale: 1, norm: false },
  ffn: { activation: 'silu', gated: true, bias: false },
  encoder: null,
  head: { scale: 1, bias: false },
  denseWidth: 44,
  moe: {
    experts: 7,
    topK: 2,
    width: 44,
    router: { score: 'softmax', bias: false, groups: null, renormalise: null, scale: 1, capacity: null },
    sharedWidth: 0,
    sharedGate: false,
  },
  layers: [{ ffn: 'sparse', window: null }],
  tied: false,
  bos: null,
  eos: [],
}

/** The kernels that encoder–decoders have besides. */
const stacked: ModelConfig = {
  ...config,
  norm: { kind: 'layer', placement: 'post', eps: 1e-5 },
  ffn: { activation: 'gelu', gated: false, bias: true },
}

export type Probed = {
  /** SHA-256, hex. */
  numericClass: string
  /** Precisions in which this machine does not compute as it must, and why. */
  refused: ReadonlyMap<Precision, MeshError>
}

/**
 * A process's numeric class is measured, not declared: fixed rows go through the real graphs, with the real session options, in blocks of
 * every size. Equal classes compute equal bits. A process whose result for a row depends on the rows beside it is refused.
 * @throws MeshError FAILED_PRECONDITION when a row's fp32 result does: such a machine is of no use.
 */
export const probe = async (options: KernelOptions): Promise<Probed> => {
  const folder = await mkdtemp(join(tmpdir(), 'expertmesh-probe-'))
  const hash = createHash('sha256')
  const check = async (name: string, graph: Graph, feeds: Feeds): Promise<void> => {
    const session = await openSession(graph, { folder, shard: await writeShard(folder, name, graph), ...options })
    try {
      await checkBlocks(name, session.run, feeds, hash)
      if (feeds === byteRows)
        await checkBlocks(`${name}, as answered`, (inputs) => answered(session, inputs), feeds, hash)
    } finally {
      await session.close()
    }
  }
  const checkPrecision = async (precision: Precision): Promise<void> => {
    await check(`expert-${precision}`, expertGraph(config, precision), precision === 'int8' ? byteRows : floatRows)
    await check(`project-${precision}`, projectGraph(config, precision), hiddenRows)
    await check(`output-${precision}`, outputGraph(config, 0, precision), mixedRows)
    // An int4 model's head is int8.
    if (precision !== 'fp32') await checkExact(folder, options)
  }
  const refused = new Map<Precision, MeshError>()
  try {
    if (options.device !== 'cpu') await checkDevice(folder, options, hash)
    else {
      await checkPrecision('fp32')
      for (const precision of ['int8', 'int4'] as const) {
        try {
          await checkPrecision(precision)
        } catch (error) {
          refused.set(precision, MeshError.from(error))
          hash.update(`no ${precision}`)
        }
      }
      await check('attention', attentionGraph(config, { causal: true, mask: 'none' }), cachedRows)
      await check('whole-attention', attentionGraph(config, { causal: false, mask: 'none' }), wholeRows)
      await check('gelu-expert', expertGraph(stacked, 'fp32'), floatRows)
      await check('layer-output', outputGraph(stacked, 0, 'fp32'), mixedRows)
    }
    return { numericClass: hash.digest('hex'), refused }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Inputs of a graph for the fixed rows [begin, end). */
type Feeds = (begin: number, end: number) => Record<string, Tensor>

/** A loop, because an expert has millions and every process begins with this. */
export const wave = (length: number, seed: number): Float32Array => {
  const values = new Float32Array(length)
  for (let i = 0; i < length; i++) values[i] = noise(seed + i)
  return values
}

const byteWave = (length: number, seed: number): Int8Array => {
  const values = new Int8Array(length)
  for (let i = 0; i < length; i++) values[i] = Math.round(noise(seed + i) * 127)
  return values
}

/** A fixed number in [-1, 1), made from integers alone so that every machine makes the same. */
const noise = (i: number): number => {
  let x = Math.imul(i + 0x9e3779b9, 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 15), 0xc2b2ae35)
  return ((x ^ (x >>> 13)) >>> 0) / 2 ** 31 - 1
}

const block = (values: Float32Array, width: number, begin: number, end: number): Tensor =>
  float32(values.slice(begin * width, end * width), [end - begin, width])

const rows = wave(ROWS * HIDDEN, 1)
const mixed = wave(ROWS * 80, 2)
const angles = wave(ROWS * 10, 3)
const keys = wave(2 * 128 * 20, 4)

const floatRows: Feeds = (begin, end) => ({ rows: block(rows, HIDDEN, begin, end) })
const hiddenRows: Feeds = (begin, end) => {
  const turn = () => float32(angles.slice(begin * 10, end * 10), [1, end - begin, 10])
  return { h: block(rows, HIDDEN, begin, end), cos: turn(), sin: turn() }
}
const mixedRows: Feeds = (begin, end) => ({ h: block(rows, HIDDEN, begin, end), mixed: block(mixed, 80, begin, end) })
const byteRows: Feeds = (begin, end) => {
  const bytes = Uint8Array.from(rows.slice(begin * HIDDEN, end * HIDDEN), (v) => 128 + Math.round(v * 127))
  return { rows: uint8(bytes, [end - begin, HIDDEN]), scale: block(rows, 1, begin, end) }
}
/** Queries of positions [begin, end) over the same keys; a single one is doubled as the engine does. */
const cachedRows: Feeds = (begin, end) => {
  const cache = () => float32(keys, [1, 2, 128, 20])
  const query = mixed.slice(begin * 80, end * 80)
  const doubled = end - begin === 1 ? Float32Array.from([...query, ...query]) : query
  return { q: float32(doubled, [doubled.length / 80, 80]), k: cache(), v: cache(), length: int64([end]) }
}

/** The same, each seeing all of 100 keys. */
const wholeRows: Feeds = (begin, end) => ({ ...cachedRows(begin, end), length: int64([100]) })

/** Fixed weights for a graph, in a file of this name. */
export const writeShard = async (folder: string, name: string, graph: Graph): Promise<string> => {
  const shard = Buffer.alloc(graph.shardBytes)
  for (const { type, offset, bytes } of graph.weights) {
    const stored = type === 'float32' ? wave(bytes / 4, offset) : byteWave(bytes, offset)
    shard.set(new Uint8Array(stored.buffer), offset)
  }
  await writeFile(join(folder, name), shard)
  return name
}

const bytesOf = ({ data }: Tensor): Uint8Array => {
  const array = data as Float32Array | Uint8Array
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

/** What a GPU runs: experts alone, in fp32. */
const checkDevice = async (folder: string, options: KernelOptions, hash: Hash): Promise<void> => {
  const graph = expertGraph(config, 'fp32')
  const shard = await writeShard(folder, 'expert-fp32', graph)
  const kernels = await openKernels(options)
  const expert = await kernels.open({ config, precision: 'fp32', folder, shard })
  const run = (x: Float32Array) => runExpert(kernels, expert, { rows: x, rowScale: null }, HIDDEN)
  const runBlock: Session['run'] = async ({ rows: { data, dims } }) => ({
    y: float32(await run(data as Float32Array), dims),
  })
  try {
    await checkBlocks('expert-fp32', runBlock, floatRows, hash)
    checkAccurate(graph, await run(rows), options)
  } finally {
    await expert.close()
    await kernels.close()
  }
}

/** The bytes that an int8 expert answers with. */
const answered = async (session: Session, { rows, scale }: Readonly<Record<string, Tensor>>) => {
  const x = { rows: rows.data as Uint8Array, rowScale: scale.data as Float32Array }
  const y = roomLike(x, x.rowScale.length, HIDDEN)
  storeRows((await session.run({ rows, scale })).y.data as Float32Array, y, HIDDEN, 0)
  return { y: uint8(y.rows as Uint8Array, rows.dims), scale: float32(y.rowScale ?? new Float32Array(0), scale.dims) }
}

/** Runs the rows whole and in blocks of every size, compares each row byte for byte, and adds the results to the hash. */
const checkBlocks = async (name: string, run: Session['run'], feeds: Feeds, hash: Hash): Promise<void> => {
  const whole = await run(feeds(0, ROWS))
  for (const output of Object.keys(whole).sort()) hash.update(output).update(bytesOf(whole[output]))
  for (const size of BLOCKS) {
    // Blocks of every size from all over the rows; all of the single rows would take most of the start.
    const stride = Math.max(size, Math.floor(ROWS / BLOCKS_PER_SIZE))
    for (let begin = 0; begin < ROWS; begin += stride) {
      const end = Math.min(ROWS, begin + size)
      const part = await run(feeds(begin, end))
      for (const [output, tensor] of Object.entries(part)) {
        const rowBytes = bytesOf(whole[output]).length / ROWS
        const got = bytesOf(tensor).slice(-rowBytes * (end - begin))
        if (Buffer.compare(got, bytesOf(whole[output]).subarray(begin * rowBytes, end * rowBytes)) === 0) continue
        const cause = `on this machine the result "${output}" of ${name} changes with the number of rows (${size} or ${ROWS})`
        throw new MeshError(
          Code.FAILED_PRECONDITION,
          `${cause}, so answers would depend on batching; use another machine, device or precision`,
        )
      }
    }
  }
}

/** The largest bytes of both signs, summed by the kernel and by exact integers: some processors saturate. */
const checkExact = async (folder: string, options: KernelOptions): Promise<void> => {
  const g = new Graph()
  g.output('y', linear(g, inputRows(g, HIDDEN, 'int8'), 'w', HIDDEN, HIDDEN), 'float32', ['T', HIDDEN])
  const shard = Buffer.alloc(g.shardBytes)
  const [weight, scale] = g.weights
  for (let i = 0; i < weight.bytes; i++) shard[weight.offset + i] = noise(i) < 0.2 ? 127 : 129
  for (let i = 0; i < HIDDEN; i++) shard.writeFloatLE(127, scale.offset + 4 * i)
  await writeFile(join(folder, 'exact'), shard)
  const session = await openSession(g, { folder, shard: 'exact', ...options })
  const x = Uint8Array.from({ length: HIDDEN }, (_, i) => (noise(7 * i) < 0.3 ? 1 : 255))
  const { y } = await session.run({ rows: uint8(x, [1, HIDDEN]), scale: float32(new Float32Array([1]), [1, 1]) })
  await session.close()
  for (let column = 0; column < HIDDEN; column++) {
    let sum = 0
    for (let i = 0; i < HIDDEN; i++) sum += (x[i] - 128) * shard.readInt8(weight.offset + i * HIDDEN + column)
    if (Math.abs((y.data as Float32Array)[column] - sum) <= Math.abs(sum) * 1e-5) continue
    throw new MeshError(Code.FAILED_PRECONDITION, 'int8 products are not exact on this processor; use --precision fp32')
  }
}

/** fp32 sums of these lengths stay well within this share of the largest result; TF32, with 11 bits for 24, is far outside. */
const LARGEST_ERROR = 1e-5

/** The probe's expert on a device, against doubles: NVIDIA's libraries may take TF32 for fp32, for every row alike. */
const checkAccurate = (graph: Graph, y: Float32Array, { device }: KernelOptions): void => {
  const [gate, up, down] = graph.weights.map(({ offset, bytes }) => wave(bytes / 4, offset))
  const lifted = product(rows, up, HIDDEN)
  const inner = product(rows, gate, HIDDEN).map((v, i) => (v / (1 + Math.exp(-v))) * lifted[i])
  const exact = product(inner, down, config.moe.width)
  const error = exact.reduce((most, v, i) => Math.max(most, Math.abs(v - y[i])), 0)
  const largest = exact.reduce((most, v) => Math.max(most, Math.abs(v)), 0)
  if (error <= largest * LARGEST_ERROR) return
  const cause = `fp32 on device ${device} is off by ${(error / largest).toExponential(1)} of the largest result`
  throw new MeshError(
    Code.FAILED_PRECONDITION,
    `${cause}, so answers would differ from the checkpoint's; on NVIDIA GPUs set NVIDIA_TF32_OVERRIDE=0, else use another device`,
  )
}

/** x [n,width] · weight [width,out], in doubles. */
const product = (x: ArrayLike<number>, weight: Float32Array, width: number): Float64Array => {
  const out = weight.length / width
  return Float64Array.from({ length: (x.length / width) * out }, (_, at) => {
    const row = Math.floor(at / out) * width
    let sum = 0
    for (let i = 0; i < width; i++) sum += x[row + i] * weight[i * out + (at % out)]
    return sum
  })
}
