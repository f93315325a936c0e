import { openRandom } from './random.ts'

/** Samples kept for the percentiles of one measure: 32 MiB of numbers. */
const KEPT_MAX = 2 ** 22

export type Summary = { count: number; mean: number; median: number; p99: number; max: number }

/** Numbers as they come, in bounded memory: mean and maximum are of all, median and p99 of an even pick of `keptMax`. */
export type Samples = {
  add(value: number): void
  /** null: there were none. */
  summary(): Summary | null
}

/** The nearest-rank percentile of at least one ascending value: of fewer than 100, the 99th is the largest. */
export const percentile = (ascending: ArrayLike<number>, percent: number): number =>
  ascending[Math.ceil((ascending.length * percent) / 100) - 1]

/** Of an even number of ascending values, the mean of the middle two. */
export const median = (ascending: ArrayLike<number>): number => {
  const middle = ascending.length >> 1
  return ascending.length % 2 === 1 ? ascending[middle] : (ascending[middle - 1] + ascending[middle]) / 2
}

export const openSamples = (keptMax = KEPT_MAX): Samples => {
  const kept: number[] = []
  const random = openRandom(keptMax)
  let count = 0
  let sum = 0
  let max = Number.NEGATIVE_INFINITY
  return {
    add(value) {
      count += 1
      sum += value
      max = Math.max(max, value)
      if (kept.length < keptMax) {
        kept.push(value)
        return
      }
      // Every value so far is kept with the same chance (Vitter's algorithm R).
      const at = Math.floor(random() * count)
      if (at < keptMax) kept[at] = value
    },
    summary() {
      if (count === 0) return null
      const ascending = Float64Array.from(kept).sort()
      return { count, mean: sum / count, median: median(ascending), p99: percentile(ascending, 99), max }
    },
  }
}
