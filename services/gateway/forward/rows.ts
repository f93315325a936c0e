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
  for (let head = 0; head < heads; head++) {
    let target = (head * to.length) / heads + begin * dim
    for (let at = head * dim; at < rows.length; at += heads * dim, target += dim)
      to.set(rows.subarray(at, at + dim), target)
  }
}
