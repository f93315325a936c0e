import type { Ffn, ModelConfig, Precision } from '../config.ts'
import { asRows, biased, inputRows, linear, type Rows } from './linear.ts'
import { Graph, type Value } from './onnx.ts'

/** down(act(gate·x) · (up·x)), or down(act(up·x)), over rows [T,H], width I: one routed expert. Output y [T,H]. */
export const expertGraph = (config: ModelConfig, precision: Precision): Graph => {
  const g = new Graph()
  const y = feedForward(g, config, config.moe.width, inputRows(g, config.hidden, precision), precision)
  g.output('y', y, 'float32', ['T', config.hidden])
  return g
}

/** The same over those of rows x [T,H] that index [size] names, in fp32, from the same shard. Output y [size,H]. */
export const tileGraph = (config: ModelConfig, size: number): Graph => {
  const g = new Graph()
  const picked = g.op('Gather', [g.input('x', 'float32', ['T', config.hidden]), g.input('index', 'int32', [size])])
  g.output('y', feedForward(g, config, config.moe.width, asRows(g, picked, 'fp32'), 'fp32'), 'float32', [
    size,
    config.hidden,
  ])
  return g
}

/** The shared experts of a sparse layer as one FFN, or the whole FFN of a dense layer; `gated` adds an input share [T,1] that multiplies y. */
export const sharedGraph = (config: ModelConfig, layer: number, precision: Precision): Graph => {
  const dense = config.layers[layer].ffn === 'dense'
  const width = dense ? config.denseWidth : config.moe.sharedWidth
  const g = new Graph()
  const y = feedForward(g, config, width, inputRows(g, config.hidden, precision), precision)
  const gated = !dense && config.moe.sharedGate
  const weighed = gated ? g.op('Mul', [y, g.input('share', 'float32', ['T', 1])]) : y
  g.output('y', weighed, 'float32', ['T', config.hidden])
  return g
}

const feedForward = (
  g: Graph,
  { hidden, ffn }: ModelConfig,
  width: number,
  rows: Rows,
  precision: Precision,
): Value => {
  const gate = ffn.gated ? linear(g, rows, 'gate', hidden, width) : null
  const up = biased(g, rows, 'up', hidden, width, ffn.bias)
  const inner = gate ? g.op('Mul', [activate(g, gate, ffn.activation), up]) : activate(g, up, ffn.activation)
  return biased(g, asRows(g, inner, precision), 'down', width, hidden, ffn.bias)
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
