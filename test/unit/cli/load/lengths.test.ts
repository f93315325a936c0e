import { describe, expect, test } from 'vitest'
import { lengths } from '../../../../services/cli/load/lengths.ts'
import { openRandom } from '../../../../services/cli/load/random.ts'

const draw = (text: string, count = 20_000): number[] => {
  const random = openRandom(1)
  const next = lengths(text)
  return Array.from({ length: count }, () => next(random))
}
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
const middle = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]

describe('lengths', () => {
  test('a number is always that number', () => {
    expect(new Set(draw('17'))).toEqual(new Set([17]))
  })

  test('A-B takes every whole number from A to B, none else, and each as often', () => {
    const counts = new Map<number, number>()
    for (const value of draw('3-7')) counts.set(value, (counts.get(value) ?? 0) + 1)
    expect([...counts.keys()].sort()).toEqual([3, 4, 5, 6, 7])
    for (const count of counts.values()) expect(Math.abs(count - 4_000)).toBeLessThan(400)
    expect(new Set(draw('5-5'))).toEqual(new Set([5]))
  })

  test.each([
    [200, 0.3],
    [1000, 0.8],
    [64, 0],
  ])('%d~%d is lognormal with that mean, and the median that follows', (of, sigma) => {
    const values = draw(`${of}~${sigma}`)
    expect(Math.abs(mean(values) / of - 1)).toBeLessThan(0.05)
    expect(Math.abs(middle(values) / (of * Math.exp(-(sigma ** 2) / 2)) - 1)).toBeLessThan(0.05)
    expect(values.every((value) => Number.isInteger(value) && value >= 1)).toBe(true)
  })

  test('a lognormal is cut at MAX, and never below one token', () => {
    const values = draw('100~1.5/300')
    expect(Math.max(...values)).toBe(300)
    expect(Math.min(...draw('2~3'))).toBe(1)
  })

  test.each(['', '0', '-3', '5-3', '0-4', '1.5', '10~', '~1', '10~9', '10~1/0', '10~-1', 'a', '1-2-3', '99999999999'])(
    '%j is no length',
    (text) => {
      expect(() => lengths(text)).toThrow('It must be N, A-B')
    },
  )
})
