import type { TokenRows } from '../../../shared/model/rows.ts'
import type { AssignmentRows } from './dispatch.ts'
import { NOBODY } from './lot.ts'
import type { Routes } from './route.ts'
import { scratch } from './scratch.ts'

const { fround } = Math

/**
 * The residual stream after a layer's FFN: h + ((Σ_k weight·row) + shared), [T,H]. Every product and every sum is rounded to
 * fp32; the experts are summed from zero in the order of the routes, which is ascending by id, as in transformers. So the
 * bits depend neither on who computed the rows nor on when they came. A quantised row's weight is weight·scale/127, rounded once.
 * Dropped assignments add nothing. shared is null where a layer has no shared expert.
 * The result is scratch memory.
 */
export function combine(
  h: Float32Array,
  shared: Float32Array | null,
  { topK, weights }: Pick<Routes, 'topK' | 'weights'>,
  { sources, source, offset }: AssignmentRows,
  hidden: number,
): Float32Array {
  const out = scratch.floats(h.length).fill(0)
  for (let begin = 0, assignment = 0; begin < h.length; begin += hidden) {
    for (let k = 0; k < topK; k++, assignment++) {
      if (source[assignment] === NOBODY) continue
      add(out, begin, hidden, sources[source[assignment]], offset[assignment], weights[assignment])
    }
  }
  if (shared) for (let i = 0; i < out.length; i++) out[i] = h[i] + fround(out[i] + shared[i])
  else for (let i = 0; i < out.length; i++) out[i] = h[i] + out[i]
  return out
}

function add(
  out: Float32Array,
  begin: number,
  length: number,
  { rows, rowScale }: TokenRows,
  offset: number,
  weight: number,
): void {
  if (rows instanceof Float32Array) addScaled(out, begin, length, rows, offset, weight)
  else addQuantised(out, begin, length, rows, offset, fround((weight * (rowScale?.[offset / length] ?? 0)) / 127))
}

/** out[begin + i] += weight·row[offset + i] for i < length; four at a time, which takes a quarter less time. */
function addScaled(
  out: Float32Array,
  begin: number,
  length: number,
  row: Float32Array,
  offset: number,
  weight: number,
): void {
  const whole = length - (length % 4)
  let i = 0
  for (; i < whole; i += 4) {
    const o = begin + i
    const r = offset + i
    out[o] += fround(weight * row[r])
    out[o + 1] += fround(weight * row[r + 1])
    out[o + 2] += fround(weight * row[r + 2])
    out[o + 3] += fround(weight * row[r + 3])
  }
  for (; i < length; i++) out[begin + i] += fround(weight * row[offset + i])
}

/** The same with weight·(row − 128). */
function addQuantised(
  out: Float32Array,
  begin: number,
  length: number,
  row: Uint8Array,
  offset: number,
  weight: number,
): void {
  const whole = length - (length % 4)
  let i = 0
  for (; i < whole; i += 4) {
    const o = begin + i
    const r = offset + i
    out[o] += fround(weight * (row[r] - 128))
    out[o + 1] += fround(weight * (row[r + 1] - 128))
    out[o + 2] += fround(weight * (row[r + 2] - 128))
    out[o + 3] += fround(weight * (row[r + 3] - 128))
  }
  for (; i < length; i++) out[begin + i] += fround(weight * (row[offset + i] - 128))
}
