/** The rows of one sequence in the KV cache, live or kept for reuse. */
export type Entry = {
  /** Live: the sequence's own array, which grows. Retained: exactly the tokens whose rows are here. */
  ids: readonly number[]
  readonly salt: string
  blocks: number
  /** Rows written, by layer; they differ only while a step is under way or after it failed. */
  readonly written: number[]
  /** By layer and array: [heads, capacity, dim]. */
  readonly data: Float32Array[][]
}

export const rowsOf = (entry: Entry): number => Math.min(...entry.written)

/** Length of the common prefix of a and b, at most limit. */
export function commonPrefix(a: readonly number[], b: readonly number[], limit: number): number {
  let n = 0
  while (n < limit && a[n] === b[n]) n++
  return n
}
