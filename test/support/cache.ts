import assert from 'node:assert/strict'
import { KvCache } from '../../services/gateway/forward/cache.ts'

export const layers = 2
export const arrays = [
  { heads: 2, dim: 3 },
  { heads: 1, dim: 5 },
]
export const blockRows = 128
export const blockBytes = layers * blockRows * (2 * 3 + 5) * 4
export const spareBytes = blockRows * 2 * 3 * 4
export const retainedMax = 1000

/** Just enough memory for so many blocks. */
export const cacheOf = (blocks: number, kept = retainedMax): KvCache => {
  const memoryBytes = blocks * blockBytes + (blocks - 1) * spareBytes
  return new KvCache({ layers, arrays, blockRows, memoryBytes, retainedMax: kept })
}

/** What a token's row would be: a number that depends on all ids up to it, as attention's rows do. */
export const state = (ids: readonly number[], salt: string): number[] => {
  let sum = salt.length
  return ids.map((id) => {
    sum = (sum * 31 + id + 1) % 65521
    return sum
  })
}

export const value = (stateOfToken: number, layer: number, array: number, head: number, i: number): number =>
  stateOfToken + layer / 2 + array / 4 + head / 8 + i / 128

/** Rows [begin, end) of a sequence, per array [S, heads·dim]. */
export const rowsFor = (
  ids: readonly number[],
  salt: string,
  layer: number,
  begin: number,
  end: number,
): Float32Array[] => {
  const states = state(ids, salt)
  return arrays.map(({ heads, dim }, array) =>
    Float32Array.from({ length: (end - begin) * heads * dim }, (_, at) => {
      const head = Math.floor(at / dim) % heads
      return value(states[begin + Math.floor(at / (heads * dim))], layer, array, head, at % dim)
    }),
  )
}

export const run = (
  cache: KvCache,
  id: string,
  ids: readonly number[],
  salt: string,
  begin: number,
  end: number,
): void => {
  assert(cache.reserve(id, end))
  for (let layer = 0; layer < layers; layer++) cache.append(id, layer, rowsFor(ids, salt, layer, begin, end), begin)
}

/** Opens a sequence of 60 tokens that has run 20, and the next step for its first layer alone: as after one that failed half way. */
export const breakOff = (cache: KvCache, id: string, ids: readonly number[], salt: string): void => {
  cache.open(id, ids, salt)
  run(cache, id, ids, salt, 0, 20)
  cache.reserve(id, 60)
  cache.append(id, 0, rowsFor(ids, salt, 0, 20, 60), 20)
}

/** Opens a sequence and runs all its tokens; returns how many were cached. */
export const complete = (cache: KvCache, id: string, ids: readonly number[], salt = ''): number => {
  const cached = cache.open(id, ids, salt)
  run(cache, id, ids, salt, cached, ids.length)
  return cached
}

/** Every row is the one its ids ask for, every capacity a multiple of 128, and nothing beyond the rows is NaN or infinite. */
export function checkRows(cache: KvCache, id: string, ids: readonly number[], salt: string, rows: number): void {
  const states = state(ids, salt)
  for (let layer = 0; layer < layers; layer++) {
    for (const [array, { heads, dim }] of arrays.entries()) {
      const { data, capacity } = cache.view(id, layer, array)
      assert(capacity % blockRows === 0 && capacity >= rows && capacity === cache.held(id) * blockRows)
      assert.equal(data.length, heads * capacity * dim)
      for (const [at, found] of data.entries()) {
        const row = Math.floor(at / dim) % capacity
        const head = Math.floor(at / (capacity * dim))
        if (row < rows) assert.equal(found, Math.fround(value(states[row], layer, array, head, at % dim)))
        else assert(Number.isFinite(found))
      }
    }
  }
}

export const numbers = (length: number, first = 0): number[] => Array.from({ length }, (_, i) => first + i)
