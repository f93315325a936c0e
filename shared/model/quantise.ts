/** What conversion does to matrices. A matrix is [out,in] as checkpoints store it; graphs multiply by its transpose. */

const TILE = 32

/** [rows,columns] → [columns,rows]. */
export const transpose = (matrix: Float32Array, rows: number, columns: number): Float32Array => {
  const turned = new Float32Array(matrix.length)
  for (let top = 0; top < rows; top += TILE) {
    const bottom = Math.min(rows, top + TILE)
    for (let left = 0; left < columns; left += TILE) {
      const right = Math.min(columns, left + TILE)
      for (let r = top; r < bottom; r++)
        for (let c = left; c < right; c++) turned[c * rows + r] = matrix[r * columns + c]
    }
  }
  return turned
}

/** The largest magnitude a quantised weight takes. */
const LEVELS = 127
/** The smallest normal fp32 number: a scale below it has so few digits left that quotients by it leave the levels. */
const SMALLEST_SCALE = 2 ** -126

/** Quantises each output channel by its largest magnitude: weight [in,out] int8, scale [out]; w ≈ q · scale. */
export const quantiseMatrix = (
  matrix: Float32Array,
  out: number,
  width: number,
): { weight: Int8Array; scale: Float32Array } => {
  const scale = new Float32Array(out)
  const inverse = new Float64Array(out)
  for (let r = 0; r < out; r++) {
    let largest = 0
    for (let i = r * width, end = i + width; i < end; i++) largest = Math.max(largest, Math.abs(matrix[i]))
    scale[r] = largest / LEVELS < SMALLEST_SCALE ? 0 : largest / LEVELS
    inverse[r] = scale[r] > 0 ? 1 / scale[r] : 0
  }
  const weight = new Int8Array(matrix.length)
  for (let top = 0; top < out; top += TILE) {
    const bottom = Math.min(out, top + TILE)
    for (let left = 0; left < width; left += TILE) {
      const right = Math.min(width, left + TILE)
      for (let r = top; r < bottom; r++)
        for (let c = left; c < right; c++) weight[c * out + r] = Math.round(matrix[r * width + c] * inverse[r])
    }
  }
  return { weight, scale }
}

/**
 * How many weights along the input share a scale with int4. Larger blocks are faster, but lose more, and there the kernel adds up the
 * last of an odd number of rows in another order than the others.
 */
export const BLOCK = 32
/** Values are q − 8: one more below zero than above. */
const HALF = 8
const LOWEST = -HALF
const HIGHEST = HALF - 1

/**
 * Quantises each output channel in blocks of BLOCK weights: weight [out,blocks,BLOCK/2], two weights a byte, the first in its low half,
 * scale [out,blocks]; w ≈ (q − 8) · scale. A last block that is not full is filled with zeros.
 */
export const quantiseBlocks = (
  matrix: Float32Array,
  out: number,
  width: number,
): { weight: Uint8Array; scale: Float32Array } => {
  const blocks = Math.ceil(width / BLOCK)
  const scale = new Float32Array(out * blocks)
  const weight = new Uint8Array((scale.length * BLOCK) / 2).fill(HALF | (HALF << 4))
  for (let at = 0; at < scale.length; at++) {
    const first = (at % blocks) * BLOCK
    const begin = Math.floor(at / blocks) * width + first
    const end = begin + Math.min(BLOCK, width - first)
    scale[at] = blockScale(matrix, begin, end)
    if (scale[at] === 0) continue
    for (let i = begin; i < end; i++) {
      const q = level(matrix[i], scale[at]) + HALF
      const place = at * BLOCK + i - begin
      weight[place >> 1] ^= (q ^ HALF) << (place & 1 ? 4 : 0)
    }
  }
  return { weight, scale }
}

const level = (value: number, scale: number): number => Math.max(LOWEST, Math.min(HIGHEST, Math.round(value / scale)))

/**
 * The scale, of either sign, of the block [begin, end): the value of largest magnitude goes to the longer end, and then the scale is
 * the one with which these levels err least (least squares). 0 where it would be too small to divide by.
 */
const blockScale = (matrix: Float32Array, begin: number, end: number): number => {
  let farthest = 0
  for (let i = begin; i < end; i++) if (Math.abs(matrix[i]) > Math.abs(farthest)) farthest = matrix[i]
  const scale = farthest / LOWEST
  if (Math.abs(scale) < SMALLEST_SCALE) return 0
  let products = 0
  let squares = 0
  for (let i = begin; i < end; i++) {
    const q = level(matrix[i], scale)
    products += matrix[i] * q
    squares += q * q
  }
  return products / squares
}

/** Root mean square of each column of [rows,columns]. */
export const columnSizes = (matrix: Float32Array, columns: number): Float64Array => {
  const sums = new Float64Array(columns)
  for (let i = 0, c = 0; i < matrix.length; i++) {
    sums[c] += matrix[i] * matrix[i]
    if (++c === columns) c = 0
  }
  return sums.map((sum) => Math.sqrt(sum / (matrix.length / columns)))
}

/** Root mean square of each row of [rows,columns]. */
export const rowSizes = (matrix: Float32Array, columns: number): Float64Array =>
  Float64Array.from({ length: matrix.length / columns }, (_, r) => {
    let sum = 0
    for (let i = r * columns, end = i + columns; i < end; i++) sum += matrix[i] * matrix[i]
    return Math.sqrt(sum / columns)
  })

/** How far from the median a channel's producer-to-consumer ratio must lie before it is evened out. */
const OUTLIER = 64

/**
 * One scale per row flattens every other channel when one is far larger. Where a channel is large on the side that makes it and
 * equally small on the side that reads it, the difference is taken out: factors f such that the producer is divided and the
 * consumer multiplied by f. Powers of two, so that in exact arithmetic nothing changes, and 1 for ordinary channels.
 * Cross-layer equalisation: Nagel et al. 2019 (arXiv:1906.04721) §4.1, s = sqrt(range of producer / range of consumer).
 * @returns [channels], or null when no channel stands out.
 */
export const equalise = (producer: Float64Array, consumer: Float64Array): Float32Array | null => {
  const ratio = producer.map((size, i) => (size > 0 && consumer[i] > 0 ? size / consumer[i] : 0))
  const known = ratio.filter((r) => r > 0).sort()
  const median = known[known.length >> 1]
  const factors = Float32Array.from(ratio, (r) => {
    const excess = r / median
    return r > 0 && (excess > OUTLIER || excess < 1 / OUTLIER) ? 2 ** Math.round(Math.log2(excess) / 2) : 1
  })
  return factors.some((f) => f !== 1) ? factors : null
}

/** Multiplies column c of [rows,columns] by factors[c], in place. */
export const scaleColumns = (matrix: Float32Array, factors: Float32Array | null): Float32Array => {
  if (!factors) return matrix
  for (let i = 0, c = 0; i < matrix.length; i++) {
    matrix[i] *= factors[c]
    if (++c === factors.length) c = 0
  }
  return matrix
}

/** Divides row r of [rows,columns] by factors[r], in place. */
export const divideRows = (matrix: Float32Array, factors: Float32Array | null): Float32Array => {
  if (!factors) return matrix
  const columns = matrix.length / factors.length
  for (let r = 0; r < factors.length; r++) {
    for (let i = r * columns, end = i + columns; i < end; i++) matrix[i] /= factors[r]
  }
  return matrix
}
