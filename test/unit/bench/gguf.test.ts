import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModel } from '../../../shared/model/open.ts'
import { type GgmlType, ggmlBytes, toBlocks } from '../../bench/gguf/blocks.ts'
import { writeDeepseek } from '../../bench/gguf/deepseek.ts'
import { writeGguf } from '../../bench/gguf/write.ts'
import { writeCheckpoint } from '../../support/checkpoint.ts'
import { gaussian } from '../../support/numbers.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'expertmesh-gguf-'))
})
afterAll(() => rm(dir, { recursive: true }))

type Read = { keys: Map<string, unknown>; tensors: Map<string, { dims: number[]; code: number; bytes: Buffer }> }

/** Reads a file as docs/gguf.md of ggml describes it. */
const readGguf = async (path: string): Promise<Read> => {
  const file = await readFile(path)
  let at = 0
  /** Where the next so many bytes begin. */
  const next = (bytes: number): number => {
    at += bytes
    return at - bytes
  }
  const u32 = (): number => file.readUInt32LE(next(4))
  const u64 = (): number => Number(file.readBigUInt64LE(next(8)))
  const text = (): string => {
    const length = u64()
    return file.toString('utf8', next(length), at)
  }
  const value = (kind: number): unknown => {
    if (kind === 4) return u32()
    if (kind === 5) return file.readInt32LE(next(4))
    if (kind === 6) return file.readFloatLE(next(4))
    if (kind === 8) return text()
    expect(kind).toBe(9)
    const of = u32()
    return Array.from({ length: u64() }, () => value(of))
  }
  expect(file.toString('latin1', 0, 4)).toBe('GGUF')
  at = 4
  expect(u32()).toBe(3)
  const [tensorCount, keyCount] = [u64(), u64()]
  const keys = new Map(Array.from({ length: keyCount }, () => [text(), value(u32())] as const))
  const infos = Array.from({ length: tensorCount }, () => {
    const name = text()
    const dims = Array.from({ length: u32() }, u64)
    return { name, dims, code: u32(), offset: u64() }
  })
  const data = Math.ceil(at / 32) * 32
  const codes: Record<number, GgmlType> = { 0: 'F32', 2: 'Q4_0', 8: 'Q8_0' }
  const tensors = new Map(
    infos.map(({ name, dims, code, offset }) => {
      expect(offset % 32).toBe(0)
      const count = dims.reduce((product, n) => product * n, 1)
      const begin = data + offset
      return [name, { dims, code, bytes: file.subarray(begin, begin + ggmlBytes(codes[code], count)) }] as const
    }),
  )
  return { keys, tensors }
}

const floatsOf = (bytes: Buffer): number[] =>
  Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i))

/** A half-precision number by the definition of IEEE 754. */
const half = (code: number): number => {
  const [exponent, mantissa] = [(code >> 10) & 31, code & 1023]
  return (code & 0x8000 ? -1 : 1) * (exponent ? (1 + mantissa / 1024) * 2 ** (exponent - 15) : mantissa * 2 ** -24)
}

describe('blocks', () => {
  const next = gaussian(3)
  const blocks = [1e-3, 0.02, 1, 300].flatMap((size) =>
    Array.from({ length: 50 }, () => Float32Array.from({ length: 32 }, () => next() * size)),
  )
  const round = (x: number): number => Math.sign(x) * Math.floor(Math.abs(x) + 0.5)
  const { fround } = Math

  it('are of 32 codes that round the weights over a 127th of the largest, in Q8_0', () => {
    for (const weights of blocks) {
      const bytes = Buffer.from(toBlocks('Q8_0', weights))
      const scale = fround(Math.max(...weights.map(Math.abs)) / 127)
      expect(Math.abs(half(bytes.readUInt16LE(0)) - scale)).toBeLessThanOrEqual(scale * 2 ** -11 + 2 ** -25)
      const codes = Array.from(weights, (x) => round(fround(x * fround(1 / scale))))
      expect(Array.from({ length: 32 }, (_, i) => bytes.readInt8(2 + i))).toEqual(codes.map((code) => code + 0))
    }
  })

  it('are of 32 codes from 0 to 15 around 8, the farthest weight at 0, in Q4_0', () => {
    for (const weights of blocks) {
      const bytes = Buffer.from(toBlocks('Q4_0', weights))
      const farthest = weights.reduce((far, x) => (Math.abs(x) > Math.abs(far) ? x : far), 0)
      const scale = fround(farthest / -8)
      expect(Math.abs(half(bytes.readUInt16LE(0)) - scale)).toBeLessThanOrEqual(Math.abs(scale) * 2 ** -11 + 2 ** -25)
      const codes = Array.from(weights, (x) => Math.min(15, Math.floor(fround(fround(x * fround(1 / scale)) + 8.5))))
      const low = Array.from({ length: 16 }, (_, i) => bytes[2 + i] & 15)
      const high = Array.from({ length: 16 }, (_, i) => bytes[2 + i] >> 4)
      expect([...low, ...high]).toEqual(codes)
      for (const [i, code] of codes.entries())
        expect(Math.abs((code - 8) * half(bytes.readUInt16LE(0)) - weights[i])).toBeLessThanOrEqual(
          Math.abs(scale) * 1.01,
        )
    }
  })

  it('are all zero where the weights are', () => {
    expect(toBlocks('Q8_0', new Float32Array(32)).every((byte) => byte === 0)).toBe(true)
    expect([...toBlocks('Q4_0', new Float32Array(32))]).toEqual([0, 0x80, ...Array(16).fill(0x88)])
  })
})

it('writes keys and tensors that a reader finds again, each tensor where it says', async () => {
  const path = join(dir, 'plain.gguf')
  const values = Float32Array.from({ length: 3 * 32 }, (_, i) => i - 40)
  const tensor = (name: string, type: GgmlType, shape: number[]) => ({
    name,
    type,
    shape,
    async *runs() {
      yield toBlocks(
        type,
        values.subarray(
          0,
          shape.reduce((product, n) => product * n, 1),
        ),
      )
    },
  })
  const keys = new Map([
    ['a', { string: 'ü' }],
    ['b', { uint32: 2 ** 31 }],
    ['c', { float32: 0.5 }],
    ['d', { strings: ['x', ''] }],
    ['e', { int32s: [-1, 7] }],
    ['f', { float32s: [1.5] }],
  ])
  await writeGguf(path, keys, [
    tensor('one', 'F32', [5]),
    tensor('two', 'Q8_0', [3, 32]),
    tensor('three', 'F32', [2, 2]),
  ])
  const read = await readGguf(path)
  expect([...read.keys.values()]).toEqual(['ü', 2 ** 31, 0.5, ['x', ''], [-1, 7], [1.5]])
  expect([...read.tensors].map(([name, { dims }]) => [name, dims])).toEqual([
    ['one', [5]],
    ['two', [32, 3]],
    ['three', [2, 2]],
  ])
  expect(floatsOf(read.tensors.get('one')!.bytes)).toEqual([...values.subarray(0, 5)])
  expect(read.tensors.get('two')!.bytes.equals(toBlocks('Q8_0', values))).toBe(true)
  expect(floatsOf(read.tensors.get('three')!.bytes)).toEqual([...values.subarray(0, 4)])
})

it('refuses a tensor of another size than announced', async () => {
  const tensor = { name: 'short', type: 'F32', shape: [8], async *runs() {} } as const
  await expect(writeGguf(join(dir, 'short.gguf'), new Map(), [tensor])).rejects.toThrow('short has 0 bytes where 32')
})

it('gives llama.cpp the weights of a DeepSeekMoE checkpoint, pairs of a head beside each other', async () => {
  const sizes = { vocab_size: 300, hidden_size: 64, intermediate_size: 96, moe_intermediate_size: 32 }
  const counts = { num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2, n_routed_experts: 4 }
  const rest = { model_type: 'deepseek', num_experts_per_tok: 2, n_shared_experts: 2, first_k_dense_replace: 1 }
  const folder = join(dir, 'model')
  await writeCheckpoint(
    folder,
    { ...sizes, ...counts, ...rest, hidden_act: 'silu', max_position_embeddings: 64 },
    { seed: 4, dtype: 'BF16' },
  )
  const path = join(dir, 'model.gguf')
  await writeDeepseek(folder, path, 'F32')
  const { keys, tensors } = await readGguf(path)
  expect(keys.get('deepseek.leading_dense_block_count')).toBe(1)
  expect(keys.get('deepseek.expert_shared_count')).toBe(2)
  const model = await openModel(folder)
  const { checkpoint, weights } = model
  const stored = (name: string): number[] => floatsOf(tensors.get(name)!.bytes)
  const q = await checkpoint.read(weights.layer(1, 'attention.q'))
  // Head 1 of 32 dimensions: its rows 0, 16, 1, 17 come first.
  const row = (r: number): number[] => [...q.subarray(r * 64, (r + 1) * 64)]
  expect(stored('blk.1.attn_q.weight').slice(32 * 64, 36 * 64)).toEqual([32, 48, 33, 49].flatMap(row))
  const up = await Promise.all([0, 1, 2, 3].map((expert) => checkpoint.read(weights.expert(1, expert, 'up'))))
  expect(stored('blk.1.ffn_up_exps.weight')).toEqual(up.flatMap((values) => [...values]))
  expect(tensors.get('blk.1.ffn_up_exps.weight')!.dims).toEqual([64, 32, 4])
  expect(stored('blk.0.ffn_down.weight')).toEqual([...(await checkpoint.read(weights.layer(0, 'shared.down')))])
  await model.close()
})
