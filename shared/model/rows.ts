import { bytesOf } from '../wire.ts'
import { largestOf, rowKernel } from './simd.ts'

/** Rows as they travel: float32 [n,H], or uint8 [n,H] around 128 with one scale each [n]: (rows − 128) · scale / 127. */
export type TokenRows = { rows: Float32Array | Uint8Array; rowScale: Float32Array | null }

export const NO_ROWS: TokenRows = { rows: new Float32Array(0), rowScale: null }

/** Room for so many rows of the same kind. */
export const roomLike = ({ rows, rowScale }: TokenRows, count: number, hidden: number): TokenRows => ({
  rows: rows instanceof Float32Array ? new Float32Array(count * hidden) : new Uint8Array(count * hidden),
  rowScale: rowScale && new Float32Array(count),
})

/** Copies all rows of `from` into `to`, the i-th to place placeOf(i). */
export const placeRows = (from: TokenRows, to: TokenRows, hidden: number, placeOf: (i: number) => number): void => {
  const count = from.rows.length / hidden
  for (let i = 0; i < count; i++) {
    const place = placeOf(i)
    to.rows.set(from.rows.subarray(i * hidden, (i + 1) * hidden), place * hidden)
    if (to.rowScale && from.rowScale) to.rowScale[place] = from.rowScale[i]
  }
}

/** Rows by index: [index.length, hidden]. */
export const pickRows = (from: TokenRows, index: ArrayLike<number>, hidden: number): TokenRows => {
  const picked = roomLike(from, index.length, hidden)
  for (let i = 0; i < index.length; i++) {
    picked.rows.set(from.rows.subarray(index[i] * hidden, (index[i] + 1) * hidden), i * hidden)
    if (picked.rowScale && from.rowScale) picked.rowScale[i] = from.rowScale[index[i]]
  }
  return picked
}

/** Writes values [n,hidden] into rows of either kind from row `begin` on. A row with a value that is not finite gets such a scale. */
export const storeRows = (values: Float32Array, into: TokenRows, hidden: number, begin: number): void => {
  const { rows, rowScale } = into
  if (rows instanceof Float32Array || !rowScale) {
    rows.set(values, begin * hidden)
    return
  }
  const kernel = rowKernel(hidden)
  for (let from = 0, row = begin; from < values.length; from += hidden, row++) {
    kernel.floats.set(values.subarray(from, from + hidden))
    rowScale[row] = kernel.quantise()
    rows.set(kernel.bytes, row * hidden)
  }
}

/** Bytes of values and scales. */
export const rowBytes = ({ rows, rowScale }: TokenRows): number => rows.byteLength + (rowScale?.byteLength ?? 0)

export const equalRows = (a: TokenRows, b: TokenRows): boolean =>
  rowBytes(a) === rowBytes(b) &&
  a.rows.length === b.rows.length &&
  parts(a).every((part, i) => part.equals(parts(b)[i]))

const parts = ({ rows, rowScale }: TokenRows): Buffer[] =>
  [rows, rowScale ?? new Float32Array(0)]
    .map(bytesOf)
    .map((bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))

/** Whether every value stands for a number that is neither infinite nor NaN. */
export const finiteRows = ({ rows, rowScale }: TokenRows): boolean =>
  rows instanceof Float32Array ? allFinite(rows) : rowScale === null || allFinite(rowScale)

export const allFinite = (values: Float32Array): boolean => largestOf(values) < Number.POSITIVE_INFINITY
