import { describe, expect, it } from 'vitest'
import { largestOf, rowKernel } from '../../../shared/model/simd.ts'
import { seeded } from '../../support/random.ts'

const { fround } = Math
const draw = (next: (below: number) => number, length: number): Float32Array =>
  Float32Array.from({ length }, () => (next(2 ** 24) / 2 ** 23 - 1) * 10 ** next(5))

describe('a row kernel', () => {
  it('gives the bits of plain loops, whatever the width and whatever other widths left in its memory', () => {
    const next = seeded(1)
    for (let round = 0; round < 300; round++) {
      const hidden = 1 + next(round % 20 === 0 ? 20_000 : 70)
      const [first, floats] = [draw(next, hidden), draw(next, hidden)]
      const bytes = Uint8Array.from(floats, () => next(256))
      const [a, b] = draw(next, 2)
      const expected = first.map((value, i) => fround(value + fround(a * floats[i])) + fround(b * (bytes[i] - 128)))
      const kernel = rowKernel(hidden)
      kernel.sum.set(first)
      kernel.floats.set(floats)
      kernel.bytes.set(bytes)
      kernel.addFloats(a)
      kernel.addBytes(b)
      expect(kernel.sum, `round ${round}`).toEqual(expected)

      const scale = floats.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      const level = (value: number): number => {
        const exact = fround(fround(value / scale) * 127)
        const below = Math.floor(exact)
        const up = exact - below === 0.5 ? below % 2 !== 0 : exact - below > 0.5
        return 128 + below + (up ? 1 : 0)
      }
      expect(kernel.quantise(), `round ${round}`).toBe(scale)
      expect(kernel.bytes, `round ${round}`).toEqual(Uint8Array.from(floats, level))
    }
  })

  it('makes a row of zeros one of bytes that mean zero', () => {
    const kernel = rowKernel(5)
    kernel.floats.fill(0)
    expect(kernel.quantise()).toBe(0)
    expect([...kernel.bytes]).toEqual([128, 128, 128, 128, 128])
  })
})

describe('largestOf', () => {
  it('is the largest magnitude of any number of values', () => {
    const next = seeded(2)
    for (const length of [0, 1, 15, 17, 8191, 8192, 8193, 40_000]) {
      const values = draw(next, length)
      expect(largestOf(values)).toBe(values.reduce((most, value) => Math.max(most, Math.abs(value)), 0))
    }
  })

  it.each([Number.NaN, Infinity, -Infinity])('is not finite where one is %s, wherever it stands', (bad) => {
    const values = new Float32Array(30_000).fill(3e38)
    for (const at of [0, 1, 8191, 8192, 29_999]) {
      values[at] = bad
      expect(Number.isFinite(largestOf(values))).toBe(false)
      values[at] = 3e38
    }
    expect(largestOf(values)).toBe(fround(3e38))
  })
})
