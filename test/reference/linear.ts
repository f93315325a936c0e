/** x·Wᵀ + b. x [T,in], weight [out,in], bias [out] → [T,out]. Sums run in double precision and are rounded once. */
export const linear = (x: Float32Array, weight: Float32Array, width: number, bias?: Float32Array): Float32Array => {
  const rows = x.length / width
  const outs = weight.length / width
  const y = new Float32Array(rows * outs)
  for (let row = 0; row < rows; row++) {
    for (let out = 0; out < outs; out++) {
      y[row * outs + out] = dot(x, row * width, weight, out * width, width) + (bias ? bias[out] : 0)
    }
  }
  return y
}

/** Σ a[at + i]·b[bt + i] over `length` elements, in double precision. */
export const dot = (a: Float32Array, at: number, b: Float32Array, bt: number, length: number): number => {
  let sum = 0
  for (let i = 0; i < length; i++) sum += a[at + i] * b[bt + i]
  return sum
}

export const add = (a: Float32Array, b: Float32Array): Float32Array => a.map((value, i) => value + b[i])

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
