import { expect, it } from 'vitest'
import { median, percentile, spread } from '../../bench/numbers.ts'

it('takes percentiles by nearest rank, whatever the order of the values', () => {
  const values = Array.from({ length: 200 }, (_, i) => (i * 77) % 200)
  expect([0.5, 50, 99, 100].map((percent) => percentile(values, percent))).toEqual([0, 99, 197, 199])
  expect(percentile([7], 99)).toBe(7)
})

it('takes the mean of the middle two of an even number of values', () => {
  expect(median([9, 1, 5])).toBe(5)
  expect(median([9, 1, 5, 6])).toBe(5.5)
})

it('leaves the values in their order', () => {
  const values = [3, 1, 2]
  expect(spread(values)).toEqual({ median: 2, min: 1, max: 3 })
  expect(values).toEqual([3, 1, 2])
})
