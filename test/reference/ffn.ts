import type { ExpertTensor, Ffn } from '../../shared/model/config.ts'
import { linear, sigmoid } from './linear.ts'

/** gate, up [I,H], down [H,I], up.bias [I], down.bias [H]; those that the config calls for. */
export type FfnWeights = Partial<Record<ExpertTensor, Float32Array>>

/** erf(x) by its series of terms of one sign, 2/√π e^(−x²) Σ 2ⁿ x^(2n+1) / (2n+1)!!, to double precision. DLMF 7.6.2. */
const erf = (x: number): number => {
  if (Math.abs(x) > 6) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1)
    sum += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
}

export const activations: Record<Ffn['activation'], (x: number) => number> = {
  silu: (x) => x * sigmoid(x),
  relu: (x) => Math.max(x, 0),
  /** arXiv:1606.08415. */
  gelu: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
  gelu_tanh: (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
}

/** down(act(up·x)), or, gated, down(act(gate·x) · (up·x)). x [T,H] → [T,H]. arXiv:1706.03762 §3.3, arXiv:2002.05202. */
export const feedForward = (
  { activation, gated }: Ffn,
  x: Float32Array,
  ffn: FfnWeights,
  hidden: number,
): Float32Array => {
  const act = activations[activation]
  const up = linear(x, ffn.up!, hidden, ffn['up.bias'])
  const inner = gated ? linear(x, ffn.gate!, hidden).map((value, i) => act(value) * up[i]) : up.map(act)
  return linear(inner, ffn.down!, ffn.up!.length / hidden, ffn['down.bias'])
}
