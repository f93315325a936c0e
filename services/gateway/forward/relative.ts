import assert from 'node:assert/strict'
import type { Positions } from '../../../shared/model/config.ts'

const { fround } = Math

/**
 * The bucket of a key that lies `distance` after its query (T5, arXiv:1910.10683 §2.1; roundings as in transformers' fp32 tensors): the
 * first half of the buckets hold one distance each, the rest are spaced logarithmically. Both ways, half of the buckets are for keys that
 * follow.
 */
const bucketOf = (
  distance: number,
  { buckets, maxDistance }: Positions & { kind: 'relative' },
  bothWays: boolean,
): number => {
  const count = bothWays ? buckets / 2 : buckets
  const offset = bothWays && distance > 0 ? count : 0
  const away = bothWays ? Math.abs(distance) : Math.max(-distance, 0)
  const exact = Math.floor(count / 2)
  if (away < exact) return offset + away
  const share = fround(fround(Math.log(fround(away / exact))) / fround(Math.log(maxDistance / exact)))
  return offset + Math.min(exact + Math.trunc(fround(share * (count - exact))), count - 1)
}

/** What a stack adds to q·k by the distance of the two rows. */
export type Relative = {
  heads: number
  /**
   * [heads,S,capacity], whose last `rows` queries are those at positions first … first + rows − 1: for the keys at 0 … length − 1, and 0
   * for those beyond.
   */
  mask(first: number, rows: number, S: number, length: number, capacity: number): Float32Array
}

/** table [buckets,heads]; positions are below `limit`. */
export const openRelative = (
  table: Float32Array,
  positions: Positions & { kind: 'relative' },
  bothWays: boolean,
  limit: number,
): Relative => {
  const heads = table.length / positions.buckets
  // [heads, 2·limit − 1], so that a query's biases to all keys are a run of it.
  const width = 2 * limit - 1
  const byDistance = new Float32Array(heads * width)
  for (let at = 0; at < width; at++) {
    const bucket = bucketOf(at - limit + 1, positions, bothWays)
    for (let head = 0; head < heads; head++) byDistance[head * width + at] = table[bucket * heads + head]
  }
  return {
    heads,
    mask(first, rows, S, length, capacity) {
      assert(first + rows <= limit && length <= limit, 'positions are below the context length')
      const mask = new Float32Array(heads * S * capacity)
      for (let head = 0; head < heads; head++)
        for (let row = 0; row < rows; row++) {
          const begin = head * width + limit - 1 - first - row
          mask.set(byDistance.subarray(begin, begin + length), (head * S + S - rows + row) * capacity)
        }
      return mask
    },
  }
}
