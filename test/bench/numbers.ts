export type Spread = { median: number; min: number; max: number }

const ascending = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b)

/** The nearest-rank percentile of at least one value: with fewer than 100, the 99th is the largest. */
export const percentile = (values: readonly number[], percent: number): number =>
  ascending(values)[Math.ceil((values.length * percent) / 100) - 1]

/** Of an even number of values, the mean of the middle two. */
export const median = (values: readonly number[]): number => {
  const sorted = ascending(values)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

export const spread = (values: readonly number[]): Spread => ({
  median: median(values),
  min: Math.min(...values),
  max: Math.max(...values),
})
