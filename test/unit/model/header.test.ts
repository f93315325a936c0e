import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../../shared/model/checkpoint.ts'
import { withHeader } from '../../support/safetensors.ts'

let root: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'header-'))
})
afterAll(() => rm(root, { recursive: true }))

const folder = async (content: Uint8Array): Promise<string> => {
  const dir = await mkdtemp(join(root, 'case-'))
  await writeFile(join(dir, 'model.safetensors'), content)
  return dir
}

describe('a file that is not whole is refused, with its name and a cure', () => {
  const entry = (begin: number, end: number, more = {}) => ({
    dtype: 'F32',
    shape: [(end - begin) / 4],
    data_offsets: [begin, end],
    ...more,
  })
  const file = (header: unknown, dataBytes: number) => withHeader(JSON.stringify(header), new Uint8Array(dataBytes))
  const whole = file({ a: entry(0, 8) }, 8)
  const declaring = (length: bigint): Uint8Array => {
    const copy = Buffer.from(whole)
    copy.writeBigUInt64LE(length)
    return copy
  }

  it.each<[string, Uint8Array, RegExp]>([
    ['an empty file', new Uint8Array(), /0 bytes, too few.*again/],
    ['a file of 7 bytes', new Uint8Array(7), /7 bytes, too few.*again/],
    ['data cut short', whole.subarray(0, -1), /cut short.*the last is a.*again/],
    ['a header cut short', whole.subarray(0, 20), /declares a header of \d+ bytes but has only 20.*again/],
    [
      'a header that claims more bytes than the file has',
      declaring(1000n),
      /declares a header of 1000 bytes but has only.*again/,
    ],
    ['a header that claims fewer bytes than it has', declaring(20n), /not JSON.*again/],
    ['a header above the limit', declaring(100_000_001n), /100000001 bytes, the limit is 100000000.*again/],
    ['a header of 2^63 bytes', declaring(1n << 63n), /9223372036854775808 bytes, the limit.*again/],
    [
      'a header that is not UTF-8',
      withHeader(Uint8Array.of(0x7b, 0xff, 0x7d), new Uint8Array()),
      /not JSON in UTF-8.*again/,
    ],
    ['a header that is a list', withHeader('[]', new Uint8Array()), /not a JSON object.*again/],
    ['bytes after the last tensor', file({ a: entry(0, 8) }, 12), /bytes that belong to no tensor.*again/],
    ['a hole between tensors', file({ a: entry(0, 4), b: entry(8, 12) }, 12), /tensor b .*hole of 4 bytes.*again/],
    ['a hole at the start', file({ a: entry(4, 8) }, 8), /tensor a .*hole of 4 bytes.*again/],
    ['tensors that overlap', file({ a: entry(0, 8), b: entry(4, 12) }, 12), /tensor b .*overlaps.*again/],
    [
      'a range that runs backwards',
      file({ a: entry(8, 0, { shape: [] }) }, 8),
      /tensor a .*data_offsets \[8,0\].*again/,
    ],
    [
      'a range of one number',
      file({ a: { ...entry(0, 8), data_offsets: [0] } }, 8),
      /tensor a .*data_offsets \[0\].*again/,
    ],
    [
      'a size that is not the shape’s',
      file({ a: entry(0, 8, { shape: [3] }) }, 8),
      /tensor a .*F32 \[3\], 12 bytes.* gives it 8.*again/,
    ],
    ['a shape whose size overflows', file({ a: entry(0, 8, { shape: [2 ** 52, 2 ** 52] }) }, 8), /tensor a .*again/],
    ['a negative dimension', file({ a: entry(0, 8, { shape: [-2] }) }, 8), /tensor a .*shape \[-2\].*again/],
    ['an unknown dtype', file({ a: entry(0, 8, { dtype: 'F31' }) }, 8), /tensor a .*unknown dtype "F31"/],
    ['a tensor without description', file({ a: null }, 0), /tensor a .*no description.*again/],
    [
      'a tensor named twice',
      withHeader(`{"a":${JSON.stringify(entry(0, 8))},"\\u0061":${JSON.stringify(entry(0, 8))}}`, new Uint8Array(8)),
      /names a twice.*again/,
    ],
    [
      'a key twice inside a tensor',
      withHeader('{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', new Uint8Array(8)),
      /names dtype twice/,
    ],
  ])('%s', async (_, content, message) => {
    const opening = openCheckpoint(await folder(content))
    await expect(opening).rejects.toThrow(message)
    await expect(opening).rejects.toThrow(/model\.safetensors/)
    await expect(opening).rejects.toMatchObject({ name: 'MeshError', code: 9 })
  })

  it('one and the same key in two tensors, or inside a string, is no duplicate', async () => {
    const checkpoint = await openCheckpoint(
      await folder(file({ a: entry(0, 4), b: entry(4, 8), __metadata__: { note: '{"a":1,"a":2}\\"' } }, 8)),
    )
    expect([...checkpoint.names]).toEqual(['a', 'b'])
    await checkpoint.close()
  })
})
