import { bytesOf } from '../wire.ts'

/** Rows as they travel: float32 [n,H], or uint8 [n,H] around 128 with one scale each [n]: (rows − 128) · scale / 127. */
export type TokenRows = { rows: Float32Array | Uint8Array; rowScale: Float32Array | null }

/** All bits of a float32 number but its sign. */
const MAGNITUDE = 0x7fffffff
/** The byte that means zero, and a half to round with. */
const HALF_ABOVE_ZERO = 128.5

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
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length)
  const one = new Int32Array(1)
  const scale = new Float32Array(one.buffer)
  for (let from = 0, row = begin; from < values.length; from += hidden, row++) {
    one[0] = largestOf(bits, from, from + hidden)
    quantise(values, from, from + hidden, rows, row * hidden, scale[0] > 0 ? 127 / scale[0] : 0)
    rowScale[row] = scale[0]
  }
}

/**
 * Bits of the largest magnitude: without their sign the bits of float32 numbers order as they do, with what is not finite above all.
 * Four at a time, as in quantise: that takes two thirds of the time.
 */
const largestOf = (bits: Int32Array, begin: number, end: number): number => {
  const whole = end - ((end - begin) % 4)
  let [a, b] = [0, 0]
  let i = begin
  for (; i < whole; i += 4) {
    a = Math.max(a, bits[i] & MAGNITUDE, bits[i + 1] & MAGNITUDE)
    b = Math.max(b, bits[i + 2] & MAGNITUDE, bits[i + 3] & MAGNITUDE)
  }
  for (; i < end; i++) a = Math.max(a, bits[i] & MAGNITUDE)
  return Math.max(a, b)
}

/** Rounds half up: what is above 0 the truncation rounds down. */
const quantise = (
  values: Float32Array,
  begin: number,
  end: number,
  rows: Uint8Array,
  to: number,
  unit: number,
): void => {
  const whole = end - ((end - begin) % 4)
  let at = to
  let i = begin
  for (; i < whole; i += 4, at += 4) {
    rows[at] = (values[i] * unit + HALF_ABOVE_ZERO) | 0
    rows[at + 1] = (values[i + 1] * unit + HALF_ABOVE_ZERO) | 0
    rows[at + 2] = (values[i + 2] * unit + HALF_ABOVE_ZERO) | 0
    rows[at + 3] = (values[i + 3] * unit + HALF_ABOVE_ZERO) | 0
  }
  for (; i < end; i++, at++) rows[at] = (values[i] * unit + HALF_ABOVE_ZERO) | 0
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

/** A finite number times 0 is 0, anything else NaN, which no sum loses. Four sums at a time take half the time of one. */
export const allFinite = (values: Float32Array): boolean => {
  const whole = values.length - (values.length % 4)
  let [a, b, c, d] = [0, 0, 0, 0]
  for (let i = 0; i < whole; i += 4) {
    a += values[i] * 0
    b += values[i + 1] * 0
    c += values[i + 2] * 0
    d += values[i + 3] * 0
  }
  for (let i = whole; i < values.length; i++) a += values[i] * 0
  return a + b + c + d === 0
}
