import type { Ffn, ModelConfig, Precision } from '../config.ts'
import { asRows, biased, inputRows, linear } from './linear.ts'
import { Graph, type Value } from './onnx.ts'

/** down(act(gate·x) · (up·x)), or down(act(up·x)), over rows [T,H], width I: one routed expert. Output y [T,H]. */
export const expertGraph = (config: ModelConfig, precision: Precision): Graph =>
  ffnGraph(config, config.moe.width, precision, false)

/** The shared experts of a sparse layer as one FFN, or the whole FFN of a dense layer; `gated` adds an input share [T,1] that multiplies y. */
export const sharedGraph = (config: ModelConfig, layer: number, precision: Precision): Graph => {
  const dense = config.layers[layer].ffn === 'dense'
  const width = dense ? config.denseWidth : config.moe.sharedWidth
  return ffnGraph(config, width, precision, !dense && config.moe.sharedGate)
}

const ffnGraph = ({ hidden, ffn }: ModelConfig, width: number, precision: Precision, weighed: boolean): Graph => {
  const g = new Graph()
  const rows = inputRows(g, hidden, precision)
  const gate = ffn.gated ? linear(g, rows, 'gate', hidden, width) : null
  const up = biased(g, rows, 'up', hidden, width, ffn.bias)
  const inner = gate ? g.op('Mul', [activate(g, gate, ffn.activation), up]) : activate(g, up, ffn.activation)
  const y = biased(g, asRows(g, inner, precision), 'down', width, hidden, ffn.bias)
  g.output('y', weighed ? g.op('Mul', [y, g.input('share', 'float32', ['T', 1])]) : y, 'float32', ['T', hidden])
  return g
}

const activate = (g: Graph, x: Value, activation: Ffn['activation']): Value => {
  switch (activation) {
    case 'silu':
      return g.op('Mul', [x, g.op('Sigmoid', [x])])
    case 'relu':
      return g.op('Relu', [x])
    case 'gelu':
      return g.op('Gelu', [x])
    case 'gelu_tanh':
      return g.op('Gelu', [x], { approximate: 'tanh' })
  }
}
