import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Checkpoint, openCheckpoint } from '../../../shared/model/checkpoint.ts'
import { uniform } from '../../support/numbers.ts'
import { bytes, floats, type Stored, safetensors } from '../../support/safetensors.ts'

let root: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'checkpoint-'))
})
afterAll(() => rm(root, { recursive: true }))

const folder = async (files: Record<string, Uint8Array | string>): Promise<string> => {
  const dir = await mkdtemp(join(root, 'case-'))
  for (const [name, content] of Object.entries(files)) await writeFile(join(dir, name), content)
  return dir
}
const opened = async (tensors: Record<string, Stored>): Promise<Checkpoint> =>
  openCheckpoint(await folder({ 'model.safetensors': safetensors(tensors) }))

/** toEqual walks element by element, which takes seconds here. */
const expectBits = (read: Float32Array, wanted: Float32Array): void => {
  expect(read.length).toBe(wanted.length)
  expect(Buffer.compare(bytes(read), bytes(wanted))).toBe(0)
}

/** Sign, exponent and mantissa put together by the book (IEEE 754 §3.4; e4m3fn has no infinities). */
const dumb = (code: number, exponentBits: number, mantissaBits: number, infinities: boolean): number => {
  const mantissa = code % 2 ** mantissaBits
  const exponent = Math.floor(code / 2 ** mantissaBits) % 2 ** exponentBits
  const sign = code >= 2 ** (exponentBits + mantissaBits) ? -1 : 1
  const top = 2 ** exponentBits - 1
  if (exponent === top && infinities) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  if (exponent === top && mantissa === 2 ** mantissaBits - 1) return Number.NaN
  const bias = 2 ** (exponentBits - 1) - 1
  const fraction = mantissa / 2 ** mantissaBits
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias)
}

describe('numbers come out as fp32', () => {
  const all = Uint16Array.from({ length: 1 << 16 }, (_, code) => code)

  it.each([
    ['BF16', 8, 7],
    ['F16', 5, 10],
  ])('every %s code, infinities, NaN and subnormal numbers among them', async (dtype, exponentBits, mantissaBits) => {
    const checkpoint = await opened({ w: { dtype, shape: [1 << 16], data: bytes(all) } })
    const read = await checkpoint.read({ name: 'w', shape: [1 << 16] })
    expect(read).toEqual(Float32Array.from(all, (code) => dumb(code, exponentBits, mantissaBits, true)))
    await checkpoint.close()
  })

  it('an odd number of BF16 codes', async () => {
    const checkpoint = await opened({
      w: { dtype: 'BF16', shape: [5], data: bytes(Uint16Array.of(0x3f80, 0xc000, 1, 0x8000, 0x7f7f)) },
    })
    expect([...(await checkpoint.read({ name: 'w', shape: [5] }))]).toEqual([
      1,
      -2,
      2 ** -133,
      -0,
      (2 - 2 ** -7) * 2 ** 127,
    ])
    await checkpoint.close()
  })

  it('every F8_E4M3 code that is a number', async () => {
    const codes = Uint8Array.from({ length: 256 }, (_, code) => code).filter((code) => code % 128 !== 127)
    const checkpoint = await opened({
      w: { dtype: 'F8_E4M3', shape: [1, 254], data: codes },
      w_scale_inv: { dtype: 'F32', shape: [1, 2], data: floats(1, 1) },
    })
    const read = await checkpoint.read({ name: 'w', shape: [1, 254] })
    expect(read).toEqual(Float32Array.from(codes, (code) => dumb(code, 4, 3, false)))
    expect(Math.max(...read)).toBe(448)
    await checkpoint.close()
  })

  it('F32 as it is, also without dimensions or elements', async () => {
    const checkpoint = await opened({
      empty: { dtype: 'F32', shape: [0, 3], data: new Uint8Array() },
      one: { dtype: 'F32', shape: [], data: floats(0.1) },
      two: { dtype: 'F32', shape: [2], data: floats(-0, 3e38) },
    })
    expect(await checkpoint.read({ name: 'empty', shape: [0, 3] })).toEqual(new Float32Array())
    expect(await checkpoint.read({ name: 'one', shape: [] })).toEqual(Float32Array.of(0.1))
    expect(await checkpoint.read({ name: 'two', shape: [2] })).toEqual(Float32Array.of(-0, 3e38))
    expect(checkpoint.bytes({ name: 'two', shape: [2] })).toBe(8)
    await checkpoint.close()
  })
})

/** Random fp8 matrices [E, height, width] with block scales, and their values by a plain loop. */
const float8 = (seed: number, [experts, height, width]: [number, number, number]) => {
  const next = uniform(seed)
  const codes = Uint8Array.from(
    { length: experts * height * width },
    () => Math.floor(next() * 127) + (next() < 0.5 ? 0 : 128),
  )
  const [down, across] = [Math.ceil(height / 128), Math.ceil(width / 128)]
  const scales = Float32Array.from({ length: experts * down * across }, () => next())
  const values = Float32Array.from(codes, (code, i) => {
    const [e, y, x] = [Math.floor(i / (height * width)), Math.floor(i / width) % height, i % width]
    return dumb(code, 4, 3, false) * scales[(e * down + Math.floor(y / 128)) * across + Math.floor(x / 128)]
  })
  return { codes, scales, values, blocks: [experts, down, across] }
}

describe('block-scaled fp8', () => {
  it.each([[[1, 128, 128]], [[1, 130, 300]], [[3, 200, 129]], [[2, 5, 7]]] as [[number, number, number]][])(
    '%j is each code times the scale of its block, whole and by rows',
    async (shape) => {
      const { codes, scales, values, blocks } = float8(shape[1], shape)
      const checkpoint = await opened({
        w: { dtype: 'F8_E4M3', shape, data: codes },
        w_scale_inv: { dtype: 'F32', shape: blocks, data: bytes(scales) },
      })
      expectBits(await checkpoint.read({ name: 'w', shape }), values)
      const next = uniform(1)
      const height = shape[0] * shape[1]
      for (let i = 0; i < 20; i++) {
        const begin = Math.floor(next() * height)
        const end = begin + Math.floor(next() * (height - begin + 1))
        const rows = await checkpoint.read({ name: 'w', shape, rows: { begin, end } })
        expectBits(rows, values.slice(begin * shape[2], end * shape[2]))
      }
      await checkpoint.close()
    },
  )

  const matrix = { dtype: 'F8_E4M3', shape: [2, 2], data: Uint8Array.of(1, 2, 3, 0xff) }
  const numbers = { ...matrix, data: Uint8Array.of(1, 2, 3, 4) }
  it.each<[string, Record<string, Stored>, RegExp]>([
    [
      'codes that are no number',
      { w: matrix, w_scale_inv: { dtype: 'F32', shape: [1, 1], data: floats(1) } },
      /w of .* no number/,
    ],
    ['missing scales', { w: numbers }, /w of .* without w_scale_inv/],
    [
      'scales of another shape',
      { w: numbers, w_scale_inv: { dtype: 'F32', shape: [1, 2], data: floats(1, 1) } },
      /w_scale_inv .* F32 \[1, 2\], not F32 \[1, 1\]/,
    ],
    [
      'scales of another dtype',
      { w: numbers, w_scale_inv: { dtype: 'BF16', shape: [1, 1], data: new Uint8Array(2) } },
      /w_scale_inv .* BF16 \[1, 1\], not F32/,
    ],
    [
      'scales that are not finite',
      { w: numbers, w_scale_inv: { dtype: 'F32', shape: [1, 1], data: floats(Number.POSITIVE_INFINITY) } },
      /w_scale_inv .* not finite/,
    ],
  ])('is refused for %s', async (_, tensors, message) => {
    const checkpoint = await opened(tensors)
    await expect(checkpoint.read({ name: 'w', shape: [2, 2] })).rejects.toThrow(message)
    await checkpoint.close()
  })
})

it('rows of a tensor are those rows of the whole', async () => {
  const next = uniform(5)
  const data = Uint16Array.from({ length: 4 * 6 * 5 }, () => Math.floor(next() * 0x7f80))
  for (const dtype of ['BF16', 'F16', 'F32']) {
    const stored = dtype === 'F32' ? bytes(Float32Array.from(data)) : bytes(data)
    const checkpoint = await opened({
      before: { dtype: 'F32', shape: [1], data: floats(7) },
      w: { dtype, shape: [4, 6, 5], data: stored },
    })
    const whole = await checkpoint.read({ name: 'w', shape: [4, 6, 5] })
    for (let begin = 0; begin <= 24; begin++)
      for (const end of [begin, Math.min(begin + 3, 24), 24]) {
        const source = { name: 'w', shape: [4, 6, 5], rows: { begin, end } }
        expectBits(await checkpoint.read(source), whole.slice(begin * 5, end * 5))
        expect(checkpoint.bytes(source)).toBe((end - begin) * 5 * (dtype === 'F32' ? 4 : 2))
      }
    await checkpoint.close()
  }
})

describe('what a config calls for is looked up before anything is read', () => {
  const one = { dtype: 'F32', shape: [2, 3], data: new Uint8Array(24) }
  it.each<[string, Record<string, Stored>, RegExp]>([
    ['a missing tensor', { other: one }, /lacks tensor w \[2, 3\].*download/],
    [
      'a tensor of another shape',
      { w: { ...one, shape: [3, 2] } },
      /w of .*model\.safetensors has shape \[3, 2\].* \[2, 3\]/,
    ],
    ['a tensor of another rank', { w: { ...one, shape: [6] } }, /w of .* has shape \[6\]/],
    ['a dtype that is not read', { w: { ...one, dtype: 'I32' } }, /w of .* is I32; save the checkpoint in F32/],
  ])('%s is refused by name', async (_, tensors, message) => {
    const checkpoint = await opened(tensors)
    expect(() => checkpoint.check({ name: 'w', shape: [2, 3] })).toThrow(message)
    await expect(checkpoint.read({ name: 'w', shape: [2, 3] })).rejects.toThrow(message)
    await checkpoint.close()
  })
})

describe('a checkpoint of several files', () => {
  const part = (name: string, value: number) =>
    safetensors({ [name]: { dtype: 'F32', shape: [1], data: floats(value) } })
  const index = (map: Record<string, string>) => JSON.stringify({ metadata: {}, weight_map: map })

  it('is read through its index', async () => {
    const checkpoint = await openCheckpoint(
      await folder({
        'one.safetensors': part('a', 1),
        'two.safetensors': part('b', 2),
        'model.safetensors.index.json': index({ a: 'one.safetensors', b: 'two.safetensors' }),
      }),
    )
    expect(await checkpoint.read({ name: 'a', shape: [1] })).toEqual(Float32Array.of(1))
    expect(await checkpoint.read({ name: 'b', shape: [1] })).toEqual(Float32Array.of(2))
    expect(checkpoint.files.map((path) => path.split('/').at(-1))).toEqual(['one.safetensors', 'two.safetensors'])
    await checkpoint.close()
  })

  it.each<[string, string, RegExp]>([
    ['a missing file', index({ a: 'three.safetensors' }), /tensor a in three\.safetensors, which is missing; download/],
    [
      'a file outside the folder',
      index({ a: '../one.safetensors' }),
      /tensor a in \.\.\/one\.safetensors, outside the folder/,
    ],
    ['an absolute path', index({ a: '/etc/passwd' }), /tensor a in \/etc\/passwd, outside the folder/],
    [
      'a file that lacks the tensor',
      index({ a: 'one.safetensors', b: 'one.safetensors' }),
      /one\.safetensors holds tensor b, but it does not/,
    ],
    ['a tensor twice', '{"weight_map":{"a":"one.safetensors","a":"one.safetensors"}}', /names a twice/],
    ['no weight_map', '{}', /index\.json has no weight_map/],
    ['a file that is no name', '{"weight_map":{"a":7}}', /tensor a the file 7/],
    ['half an index', '{"weight_map":', /index\.json is not JSON/],
  ])('is refused when its index names %s', async (_, text, message) => {
    const dir = await folder({ 'one.safetensors': part('a', 1), 'model.safetensors.index.json': text })
    await expect(openCheckpoint(dir)).rejects.toThrow(message)
  })

  it('is refused when there are no safetensors at all', async () => {
    await expect(openCheckpoint(await folder({ 'pytorch_model.bin': 'x' }))).rejects.toThrow(
      /neither model\.safetensors.*save the checkpoint/,
    )
  })
})

it('a closed checkpoint reads nothing', async () => {
  const checkpoint = await opened({ w: { dtype: 'F32', shape: [1], data: floats(1) } })
  await checkpoint.close()
  await expect(checkpoint.read({ name: 'w', shape: [1] })).rejects.toThrow()
})

it('a file that shrinks while it is open is refused', async () => {
  const dir = await folder({
    'model.safetensors': safetensors({ w: { dtype: 'F32', shape: [2], data: floats(1, 2) } }),
  })
  const checkpoint = await openCheckpoint(dir)
  await writeFile(join(dir, 'model.safetensors'), 'short')
  await expect(checkpoint.read({ name: 'w', shape: [2] })).rejects.toThrow(/become shorter/)
  await checkpoint.close()
})
