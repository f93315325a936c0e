import type { ModelConfig, Precision } from '../config.ts'
import { asRows, linear, rmsNorm } from './linear.ts'
import { Graph } from './onnx.ts'

/** ids [T] → h [T,H]. */
export const embedGraph = (config: ModelConfig): Graph => {
  const g = new Graph()
  const ids = g.input('ids', 'int64', ['T'])
  const h = g.op('Gather', [g.weight('embed', 'float32', [config.vocabulary, config.hidden]), ids])
  g.output('h', h, 'float32', ['T', config.hidden])
  return g
}

/** h [T,H] → logits [T,V]. */
export const headGraph = (config: ModelConfig, precision: Precision): Graph => {
  const g = new Graph()
  const h = g.input('h', 'float32', ['T', config.hidden])
  const rows = asRows(g, rmsNorm(g, h, 'norm', config.hidden, config.norm.eps), precision)
  g.output('logits', linear(g, rows, 'head', config.hidden, config.vocabulary), 'float32', ['T', config.vocabulary])
  return g
}
