import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { positionDigest, runningDigest } from '../../../../services/gateway/forward/digest.ts'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest()

describe("a position's digest", () => {
  it('is SHA-256 of its little-endian fp32 logits alone, −0 and 0 being different bits', () => {
    const row = new Float32Array([9, 1, -2, 9]).subarray(1, 3)
    expect(Buffer.from(positionDigest(row))).toEqual(sha256(Uint8Array.of(0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0)))
    expect(positionDigest(Float32Array.of(0))).not.toEqual(positionDigest(Float32Array.of(-0)))
  })

  it('adds to a running digest that can be read at any position and taken up from the digests', () => {
    const digests = [1, 2, 3].map((logit) => positionDigest(Float32Array.of(logit)))
    const running = runningDigest()
    expect(running.hex()).toBe(sha256(new Uint8Array()).toString('hex'))
    const read = digests.map((digest) => {
      running.push(digest)
      return running.hex()
    })
    expect(read).toEqual([1, 2, 3].map((n) => sha256(Buffer.concat(digests.slice(0, n))).toString('hex')))
  })
})
