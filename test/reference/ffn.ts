import { linear, sigmoid } from './linear.ts'

/** gate [I,H], up [I,H], down [H,I]. */
export type Ffn = { gate: Float32Array; up: Float32Array; down: Float32Array }

/** down(silu(gate·x) · (up·x)). x [T,H] → [T,H]. arXiv:2002.05202. */
export const swiglu = (x: Float32Array, ffn: Ffn, hidden: number): Float32Array => {
  const gate = linear(x, ffn.gate, hidden)
  const up = linear(x, ffn.up, hidden)
  const inner = gate.map((value, i) => value * sigmoid(value) * up[i])
  return linear(inner, ffn.down, ffn.gate.length / hidden)
}
