import { type FileHandle, mkdir, open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Source } from '../../shared/model/config.ts'
import { SCALE_BLOCK, type StoredType, storedBytes } from '../../shared/model/dtype.ts'
import { readKeys } from '../../shared/model/families/keys.ts'
import { describeModel, sources } from '../../shared/model/open.ts'
import { encode, gaussian, seedOf, uniform } from './numbers.ts'

export type WriteOptions = {
  seed?: number
  dtype?: StoredType
  /**
   * experts: one tensor per expert matrix, as on the hub; fused: all experts of a layer in one, as transformers 5 has
   * them.
   */
  layout?: 'experts' | 'fused'
  /** Standard deviation of the matrices; by default 0.2, less where rows are longer than 100. */
  scale?: number
  shards?: number
}

/** A run of rows that is random by itself, so that the same matrix comes out in every layout. */
type Piece = { seed: number; elements: number }
type Kind = 'matrix' | 'norm' | 'bias' | 'correction' | 'scales'
type Tensor = { name: string; shape: readonly number[]; dtype: StoredType; kind: Kind; pieces: Piece[] }

/**
 * Up to here every element is drawn by itself; longer pieces are cut from one pool of numbers at random offsets, which
 * is fast.
 */
const DRAWN_MAX = 1 << 17
const POOL = (1 << 22) + 4099
const WRITE_BYTES = 1 << 22

/**
 * Writes config.json and safetensors of a random model of any supported family under its hub names. The same seed gives
 * the same weights in every layout and number of shards. Holds one pool of numbers in memory, whatever the model's
 * size.
 */
export const writeCheckpoint = async (
  dir: string,
  hfConfig: Record<string, unknown>,
  { seed = 0, dtype = 'F32', layout = 'experts', scale, shards = 1 }: WriteOptions = {},
): Promise<void> => {
  await mkdir(dir, { recursive: true })
  const quantization = { quant_method: 'fp8', fmt: 'e4m3', activation_scheme: 'dynamic', weight_block_size: [128, 128] }
  const config = dtype === 'F8_E4M3' ? { ...hfConfig, quantization_config: quantization } : hfConfig
  await writeFile(join(dir, 'config.json'), JSON.stringify(config, null, 1))
  const files = split(listTensors(config, { seed, dtype, layout }), shards)
  const names = files.map((_, i) => (files.length === 1 ? 'model.safetensors' : shardName(i, files.length)))
  const numbers = pooled(scale)
  for (const [i, tensors] of files.entries()) await writeFileOf(join(dir, names[i]), tensors, numbers)
  if (files.length === 1) return
  const map = files.flatMap((tensors, i) => tensors.map(({ name }) => [name, names[i]]))
  const index = { metadata: {}, weight_map: Object.fromEntries(map) }
  await writeFile(join(dir, 'model.safetensors.index.json'), JSON.stringify(index))
}

const shardName = (i: number, of: number): string =>
  `model-${String(i + 1).padStart(5, '0')}-of-${String(of).padStart(5, '0')}.safetensors`

const size = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1)

/** What the family calls for, in the order of layers. */
const listTensors = (
  config: Record<string, unknown>,
  { seed, dtype, layout }: { seed: number; dtype: StoredType; layout: 'experts' | 'fused' },
): Tensor[] => {
  const holds = (name: string) =>
    name === 'final_logits_bias' ||
    (layout === 'fused' && (name.endsWith('.mlp.gate.weight') || name.endsWith('.gate_up_proj')))
  const { config: canonical, weights } = describeModel(readKeys(config, 'config.json'), readKeys({}, 'none'), holds)
  const tensors = new Map<string, Tensor>()
  let drawn = 0
  for (const source of sources(canonical, weights)) {
    const piece = { seed: seedOf(`${seed} ${drawn++}`), elements: elementsOf(source) }
    const known = tensors.get(source.name)
    // Tied tensors and rows of a fused one share a name. Experts come gate, up, down, and so in the order of rows.
    if (!known) tensors.set(source.name, { ...typed(source, dtype), pieces: [piece] })
    else if (source.rows) known.pieces.push(piece)
  }
  return [...tensors.values()].flatMap((tensor) =>
    tensor.dtype === 'F8_E4M3' ? [tensor, scalesOf(tensor, seed)] : [tensor],
  )
}

const elementsOf = ({ shape, rows }: Source): number => (rows ? (rows.end - rows.begin) * shape.at(-1)! : size(shape))

const typed = ({ name, shape }: Source, dtype: StoredType): Omit<Tensor, 'pieces'> => {
  const kind = name.endsWith('e_score_correction_bias')
    ? 'correction'
    : /[._]bias$/.test(name)
      ? 'bias'
      : /norm(_embedding)?\.weight$/.test(name)
        ? 'norm'
        : 'matrix'
  if (kind === 'correction') return { name, shape, kind, dtype: 'F32' }
  // Projections alone are fp8 in DeepSeek-V3: not routers, norms, embeddings or the head.
  const plain = dtype === 'F8_E4M3' && (kind !== 'matrix' || !name.includes('_proj'))
  return { name, shape, kind, dtype: plain ? 'BF16' : dtype }
}

const scalesOf = ({ name, shape }: Tensor, seed: number): Tensor => {
  const blocks = [...shape.slice(0, -2), ...shape.slice(-2).map((n) => Math.ceil(n / SCALE_BLOCK))]
  const piece = { seed: seedOf(`${seed} ${name}`), elements: size(blocks) }
  return { name: `${name}_scale_inv`, shape: blocks, dtype: 'F32', kind: 'scales', pieces: [piece] }
}

const bytesOf = ({ shape, dtype }: Tensor): number => size(shape) * storedBytes[dtype]

/** Cuts the list into that many runs of about the same number of bytes. */
const split = (tensors: Tensor[], shards: number): Tensor[][] => {
  const total = tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0)
  const files: Tensor[][] = Array.from({ length: shards }, () => [])
  let before = 0
  for (const tensor of tensors) {
    files[Math.min(Math.floor((before * shards) / total), shards - 1)].push(tensor)
    before += bytesOf(tensor)
  }
  return files.filter((file) => file.length > 0)
}

const writeFileOf = async (path: string, tensors: Tensor[], numbers: Numbers): Promise<void> => {
  let offset = 0
  const entries = tensors.map((tensor) => {
    const begin = offset
    offset += bytesOf(tensor)
    return [tensor.name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, offset] }]
  })
  const json = JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) })
  const header = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  const handle = await open(path, 'w')
  try {
    await writeAll(handle, length)
    await writeAll(handle, header)
    for (const tensor of tensors)
      for (const piece of tensor.pieces) for (const run of numbers(tensor, piece)) await writeAll(handle, run)
  } finally {
    await handle.close()
  }
}

const writeAll = async (handle: FileHandle, bytes: Uint8Array): Promise<void> => {
  for (let done = 0; done < bytes.length; ) done += (await handle.write(bytes, done, bytes.length - done)).bytesWritten
}

/** The stored bytes of a piece, in runs. */
type Numbers = (tensor: Tensor, piece: Piece) => Iterable<Uint8Array>

const pooled = (scale: number | undefined): Numbers => {
  const pools = new Map<string, Uint8Array>()
  return function* ({ shape, kind, dtype }, { seed, elements }) {
    const deviation = scale ?? Math.min(0.2, 2 / Math.sqrt(shape.at(-1)!))
    if (elements <= DRAWN_MAX) {
      yield encode(draw(kind, dtype, elements, seed, deviation), dtype)
      return
    }
    const id = `${kind} ${dtype} ${deviation}`
    if (!pools.has(id)) pools.set(id, encode(drawPool(kind, dtype, deviation), dtype))
    const pool = pools.get(id)!
    const width = storedBytes[dtype]
    let from = Math.floor(uniform(seed)() * POOL) * width
    for (let left = elements * width; left > 0; ) {
      const run = Math.min(left, WRITE_BYTES, pool.length - from)
      yield pool.subarray(from, from + run)
      from = (from + run) % pool.length
      left -= run
    }
  }
}

/** Drawing normal numbers is the slow part, so pools of other deviations are multiples of one. */
let normals: Float32Array | undefined
const drawPool = (kind: Kind, dtype: StoredType, deviation: number): Float32Array => {
  const drawn = dtype === 'F8_E4M3' || (kind !== 'matrix' && kind !== 'bias')
  if (drawn) return draw(kind, dtype, POOL, seedOf(kind), deviation)
  normals ??= draw('matrix', 'F32', POOL, 0, 1)
  return normals.map((x) => x * deviation)
}

/**
 * The root mean square of all finite fp8 numbers, each as often as the next: block scales bring it to the deviation
 * asked for.
 */
const FLOAT8_RMS = 100

const draw = (kind: Kind, dtype: StoredType, length: number, seed: number, deviation: number): Float32Array => {
  const next = uniform(seed)
  const normal = gaussian(seed)
  const one = (): number => {
    if (dtype === 'F8_E4M3') return (next() < 0.5 ? 0 : 0x80) + Math.floor(next() * 0x7f)
    if (kind === 'scales') return ((0.5 + next()) * deviation) / FLOAT8_RMS
    if (kind === 'norm') return 0.5 + next()
    if (kind === 'correction') return (next() - 0.5) * 1.2
    return normal() * deviation
  }
  return Float32Array.from({ length }, one)
}
