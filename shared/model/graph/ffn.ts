import type { ModelConfig, Precision } from '../config.ts'
import { asRows, inputRows, linear } from './linear.ts'
import { Graph } from './onnx.ts'

/** down(silu(gate·x) · (up·x)) over rows [T,H], width I: one routed expert. Output y [T,H]. */
export const expertGraph = (config: ModelConfig, precision: Precision): Graph =>
  ffnGraph(config.hidden, config.moe.width, precision, false)

/** The shared experts of a sparse layer as one FFN, or the whole FFN of a dense layer; `gated` adds an input share [T,1] that multiplies y. */
export const sharedGraph = (config: ModelConfig, layer: number, precision: Precision): Graph => {
  const dense = config.layers[layer].ffn === 'dense'
  const width = dense ? config.denseWidth : config.moe.sharedWidth
  return ffnGraph(config.hidden, width, precision, !dense && config.moe.sharedGate)
}

const ffnGraph = (hidden: number, width: number, precision: Precision, gated: boolean): Graph => {
  const g = new Graph()
  const rows = inputRows(g, hidden, precision)
  const gate = linear(g, rows, 'gate', hidden, width)
  const up = linear(g, rows, 'up', hidden, width)
  const silu = g.op('Mul', [gate, g.op('Sigmoid', [gate])])
  const inner = asRows(g, g.op('Mul', [silu, up]), precision)
  const y = linear(g, inner, 'down', width, hidden)
  g.output('y', gated ? g.op('Mul', [y, g.input('share', 'float32', ['T', 1])]) : y, 'float32', ['T', hidden])
  return g
}
