/** w · x / √(mean(x²) + eps) over each run of weight.length values: rows of a [T,H] tensor, or its heads. arXiv:1910.07467. */
export const rmsNorm = (x: Float32Array, weight: Float32Array, eps: number): Float32Array => {
  const width = weight.length
  const y = new Float32Array(x.length)
  for (let at = 0; at < x.length; at += width) {
    let squares = 0
    for (let i = 0; i < width; i++) squares += x[at + i] ** 2
    const scale = 1 / Math.sqrt(squares / width + eps)
    for (let i = 0; i < width; i++) y[at + i] = weight[i] * Math.fround(x[at + i] * scale)
  }
  return y
}
