/** One thing a token stores per layer, [heads, dim]; cached as [heads, capacity, dim], the layout the Attention operator reads. */
export type CacheArray = { heads: number; dim: number }

/** Copies the first rows of every head from one capacity to another. */
export function copyRows(from: Float32Array, to: Float32Array, { heads, dim }: CacheArray, rows: number): void {
  for (let head = 0; head < heads && rows > 0; head++) {
    const begin = (head * from.length) / heads
    to.set(from.subarray(begin, begin + rows * dim), (head * to.length) / heads)
  }
}

/** Writes rows [S, heads·dim] into [heads, capacity, dim] at row `begin`. */
export function scatterRows(rows: Float32Array, to: Float32Array, { heads, dim }: CacheArray, begin: number): void {
  if (heads === 1) {
    to.set(rows, begin * dim)
    return
  }
  const count = rows.length / (heads * dim)
  for (let head = 0; head < heads; head++) {
    let target = (head * to.length) / heads + begin * dim
    for (let row = 0; row < count; row++, target += dim) copyRow(rows, (row * heads + head) * dim, to, target, dim)
  }
}

/** Plain loop: a head's row is too short for subarray and set to pay. */
function copyRow(from: Float32Array, source: number, to: Float32Array, target: number, length: number): void {
  const whole = length - (length % 4)
  let i = 0
  for (; i < whole; i += 4) {
    to[target + i] = from[source + i]
    to[target + i + 1] = from[source + i + 1]
    to[target + i + 2] = from[source + i + 2]
    to[target + i + 3] = from[source + i + 3]
  }
  for (; i < length; i++) to[target + i] = from[source + i]
}
