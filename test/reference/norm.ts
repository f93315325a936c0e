import type { ModelConfig } from '../../shared/model/config.ts'

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

/** w · (x − mean(x)) / √(variance(x) + eps) + b over each run of weight.length values. arXiv:1607.06450. */
export const layerNorm = (x: Float32Array, weight: Float32Array, bias: Float32Array, eps: number): Float32Array => {
  const width = weight.length
  const y = new Float32Array(x.length)
  for (let at = 0; at < x.length; at += width) {
    const row = x.subarray(at, at + width)
    const mean = row.reduce((sum, value) => sum + value, 0) / width
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / width
    const scale = 1 / Math.sqrt(variance + eps)
    for (let i = 0; i < width; i++) y[at + i] = weight[i] * (row[i] - mean) * scale + bias[i]
  }
  return y
}

/** The model's kind of norm over rows x [T,H] under the weights of that name. */
export const normalise = <Name extends string>(
  { kind, eps }: ModelConfig['norm'],
  x: Float32Array,
  tensors: Partial<Record<Name | `${Name}.bias`, Float32Array>>,
  name: Name,
): Float32Array => {
  const weight = tensors[name]!
  return kind === 'rms' ? rmsNorm(x, weight, eps) : layerNorm(x, weight, tensors[`${name}.bias`]!, eps)
}
