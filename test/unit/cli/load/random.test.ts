import { describe, expect, test } from 'vitest'
import { arrivals } from '../../../../services/cli/load/arrivals.ts'
import { gamma, normal, openRandom } from '../../../../services/cli/load/random.ts'

const COUNT = 20_000
const draw = (next: () => number): number[] => Array.from({ length: COUNT }, next)
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
const variance = (values: readonly number[]): number => {
  const middle = mean(values)
  return mean(values.map((value) => (value - middle) ** 2))
}

describe('random numbers', () => {
  test('the same seed and stream give the same numbers, any other pair others', () => {
    const seen = new Map<string, string>()
    for (const seed of [0, 1, 2, 2 ** 32, 2 ** 40 + 1]) {
      for (const stream of [0, 1, 7]) {
        const first = draw(openRandom(seed, stream)).slice(0, 4).join()
        expect(draw(openRandom(seed, stream)).slice(0, 4).join()).toBe(first)
        expect(seen.get(first)).toBeUndefined()
        seen.set(first, `${seed} ${stream}`)
      }
    }
  })

  test('they fill [0, 1) evenly, also the first numbers of neighbouring streams', () => {
    const first = Array.from({ length: COUNT }, (_, stream) => openRandom(3, stream)())
    for (const values of [draw(openRandom(3)), first]) {
      const tenths = Array.from({ length: 10 }, () => 0)
      for (const value of values) tenths[Math.floor(value * 10)] += 1
      // Twelve deviations of a binomial count.
      for (const count of tenths) expect(Math.abs(count - COUNT / 10)).toBeLessThan(12 * Math.sqrt(COUNT * 0.09))
      expect(values.every((value) => value >= 0 && value < 1)).toBe(true)
    }
  })

  test('normal has mean 0 and variance 1', () => {
    const random = openRandom(11)
    const values = draw(() => normal(random))
    expect(Math.abs(mean(values))).toBeLessThan(0.05)
    expect(Math.abs(variance(values) - 1)).toBeLessThan(0.1)
  })

  test.each([0.2, 0.5, 1, 2, 10])('gamma of shape %d has that mean and that variance', (shape) => {
    const random = openRandom(5)
    const values = draw(() => gamma(random, shape))
    expect(mean(values) / shape).toBeCloseTo(1, 1)
    expect(Math.abs(variance(values) / shape - 1)).toBeLessThan(0.2)
    expect(values.every((value) => value >= 0)).toBe(true)
  })

  test('gamma of shape 1 is the exponential distribution', () => {
    const random = openRandom(6)
    const values = draw(() => gamma(random, 1))
    for (const at of [0.1, 0.5, 1, 2, 4]) {
      const share = values.filter((value) => value > at).length / COUNT
      expect(Math.abs(share - Math.exp(-at))).toBeLessThan(0.02)
    }
  })
})

describe('arrivals', () => {
  const gapsOf = (rate: number, burstiness: number, seed: number): number[] => {
    const starts = arrivals(rate, burstiness, openRandom(seed))
    let last = 0
    return Array.from({ length: COUNT }, () => {
      const at = starts.next().value as number
      const gap = at - last
      last = at
      return gap
    })
  }

  test.each([
    [1, 1],
    [50, 1],
    [8, 0.25],
    [8, 4],
  ])(
    'at rate %d and burstiness %d the gaps have the mean of the rate and the variance of the burstiness',
    (rate, burstiness) => {
      const gaps = gapsOf(rate, burstiness, 9)
      expect(gaps.every((gap) => gap >= 0)).toBe(true)
      expect((mean(gaps) * rate) / 1000).toBeCloseTo(1, 1)
      const squaredVariation = variance(gaps) / mean(gaps) ** 2
      expect(Math.abs(squaredVariation * burstiness - 1)).toBeLessThan(0.2)
    },
  )

  test('a Poisson process: of the seconds, the share without an arrival is e to the minus rate', () => {
    const gaps = gapsOf(2, 1, 4)
    let at = 0
    const counts = new Map<number, number>()
    for (const gap of gaps) {
      at += gap
      const second = Math.floor(at / 1000)
      counts.set(second, (counts.get(second) ?? 0) + 1)
    }
    const seconds = Math.floor(at / 1000)
    expect(Math.abs((seconds - counts.size) / seconds - Math.exp(-2))).toBeLessThan(0.02)
  })

  test('the same seed gives the same arrivals', () => {
    expect(gapsOf(3, 1, 1)).toEqual(gapsOf(3, 1, 1))
    expect(gapsOf(3, 1, 1)).not.toEqual(gapsOf(3, 1, 2))
  })
})
