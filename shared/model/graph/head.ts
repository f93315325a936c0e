import type { ModelConfig, Precision } from '../config.ts'
import { asRows, biased, entering, normalise } from './linear.ts'
import { Graph, type Value } from './onnx.ts'

/** ids [T] → h [T,H], scaled. */
export const embedGraph = (config: ModelConfig): Graph => {
  const g = new Graph()
  const ids = g.input('ids', 'int64', ['T'])
  const h = g.op('Gather', [g.weight('embed', 'float32', [config.vocabulary, config.hidden]), ids])
  g.output('h', scaled(g, h, config.embedding.scale), 'float32', ['T', config.hidden])
  return g
}

const scaled = (g: Graph, x: Value, scale: number): Value =>
  scale === 1 ? x : g.op('Mul', [x, g.constant('float32', [], [scale])])

/**
 * What a stack does to its embeddings: positions are added and a norm follows, as far as the model has them. h [T,H] and, where
 * positions are learned, position int64 [T], where they are sinusoidal, position [T,H] → h.out [T,H].
 */
export const placeGraph = (config: ModelConfig): Graph => {
  const { hidden, positions: p } = config
  const g = new Graph()
  let h = g.input('h', 'float32', ['T', hidden])
  if (p.kind === 'sinusoidal') h = g.op('Add', [h, g.input('position', 'float32', ['T', hidden])])
  if (p.kind === 'learned') {
    const table = g.weight('positions', 'float32', [p.rows, hidden])
    h = g.op('Add', [h, g.op('Gather', [table, g.input('position', 'int64', ['T'])])])
  }
  if (config.embedding.norm) h = normalise(g, h, 'norm', config)
  g.output('h.out', h, 'float32', ['T', hidden])
  return g
}

/** The norm that ends a layer: h [T,H] → h.out [T,H]. */
export const settleGraph = (config: ModelConfig): Graph => {
  const g = new Graph()
  const h = g.input('h', 'float32', ['T', config.hidden])
  g.output('h.out', normalise(g, h, 'norm', config), 'float32', ['T', config.hidden])
  return g
}

/** h [T,H] → logits [T,V]. */
export const headGraph = (config: ModelConfig, precision: Precision): Graph => {
  const { hidden, vocabulary, head } = config
  const g = new Graph()
  const h = entering(g, g.input('h', 'float32', ['T', hidden]), 'norm', config)
  const rows = asRows(g, scaled(g, h, head.scale), precision)
  g.output('logits', biased(g, rows, 'head', hidden, vocabulary, head.bias), 'float32', ['T', vocabulary])
  return g
}
