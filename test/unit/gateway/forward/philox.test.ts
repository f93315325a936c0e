import { describe, expect, it } from 'vitest'
import { philox, uniform } from '../../../../services/gateway/forward/philox.ts'

describe('philox4x32-10', () => {
  // Random123's known answers (tests/kat_vectors).
  const ones = 0xffffffff
  it.each([
    { counter: [0, 0, 0, 0], key: [0, 0], words: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8] },
    { counter: [ones, ones, ones, ones], key: [ones, ones], words: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd] },
    {
      counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      key: [0xa4093822, 0x299f31d0],
      words: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    },
  ] as const)('gives the known answer for counter $counter', ({ counter, key, words }) => {
    expect(philox(counter, key)).toEqual(words)
  })

  it('makes numbers spread evenly over [0, 1)', () => {
    const bins = new Array(16).fill(0)
    for (let position = 0; position < 16_000; position++) bins[Math.floor(uniform(2n ** 64n - 1n, 3, position) * 16)]++
    expect(bins).toHaveLength(16)
    for (const count of bins) expect(Math.abs(count - 1000)).toBeLessThan(4 * Math.sqrt(1000))
  })
})
