import { describe, expect, test } from 'vitest'
import { median, openSamples, percentile } from '../../../../services/cli/load/samples.ts'
import { seeded } from '../../../support/random.ts'

const CASES = 300

/** By the definition: the least value that at least `percent` of all values do not exceed. */
const plainPercentile = (values: readonly number[], percent: number): number =>
  Math.min(
    ...values.filter((value) => values.filter((other) => other <= value).length * 100 >= percent * values.length),
  )

describe('samples', () => {
  test('percentiles and medians are those of the definition, in random cases', () => {
    const next = seeded(1)
    for (let at = 0; at < CASES; at++) {
      const values = Array.from({ length: 1 + next(150) }, () => next(40))
      const ascending = values.toSorted((a, b) => a - b)
      for (const percent of [1, 50, 90, 99, 100])
        expect(percentile(ascending, percent)).toBe(plainPercentile(values, percent))
      // From both ends the median is the same distance away.
      const descending = ascending.toReversed()
      const upper = ascending[Math.floor(values.length / 2)]
      expect(median(ascending)).toBe((upper + descending[Math.floor(values.length / 2)]) / 2)
    }
  })

  test('a summary has count, mean, median, p99 and maximum of what was added', () => {
    const next = seeded(2)
    for (let at = 0; at < CASES; at++) {
      const values = Array.from({ length: 1 + next(200) }, () => next(1000) / 8)
      const samples = openSamples()
      for (const value of values) samples.add(value)
      const ascending = values.toSorted((a, b) => a - b)
      const sum = values.reduce((total, value) => total + value, 0)
      expect(samples.summary()).toEqual({
        count: values.length,
        mean: sum / values.length,
        median: median(ascending),
        p99: plainPercentile(values, 99),
        max: ascending.at(-1),
      })
    }
  })

  test('of fewer than 100 samples the p99 is the maximum', () => {
    const samples = openSamples()
    for (let value = 1; value < 100; value++) samples.add(value)
    expect(samples.summary()).toMatchObject({ p99: 99, max: 99 })
    samples.add(100)
    expect(samples.summary()).toMatchObject({ p99: 99, max: 100 })
  })

  test('none has no summary', () => {
    expect(openSamples().summary()).toBeNull()
  })

  test('beyond what it keeps, mean and maximum are of all, and the rest of an even pick', () => {
    const samples = openSamples(2_000)
    for (let value = 0; value < 100_000; value++) samples.add(value)
    const { count, mean, median: half, p99, max } = samples.summary()!
    expect({ count, mean, max }).toEqual({ count: 100_000, mean: 49_999.5, max: 99_999 })
    expect(Math.abs(half - 50_000)).toBeLessThan(5_000)
    expect(Math.abs(p99 - 99_000)).toBeLessThan(900)
  })
})
