import assert from 'node:assert/strict'
import type { GqaAttention, MlaAttention, ModelConfig, Precision } from '../config.ts'
import { asRows, biased, entering, leaving, linear, type Rows, reshape, rmsNorm, split } from './linear.ts'
import { Graph, type Value } from './onnx.ts'

/** What one token stores per layer: for gqa its keys and its values, for mla one latent row that serves as both. */
export const cacheArrays = ({ attention }: ModelConfig): { heads: number; dim: number }[] => {
  if (attention.kind === 'mla') return [{ heads: 1, dim: attention.kvLora + attention.rope }]
  const array = { heads: attention.kvHeads, dim: attention.headDim }
  return [array, array]
}

/** Width of a query row and of the attention's result row. */
export const queryWidth = ({ attention: a }: ModelConfig): number =>
  a.heads * (a.kind === 'mla' ? a.kvLora + a.rope : a.headDim)
export const mixedWidth = ({ attention: a }: ModelConfig): number => a.heads * (a.kind === 'mla' ? a.kvLora : a.headDim)

/**
 * Norm, projections and rope. h [T,H] and, with rope, cos and sin [1,T,d/2] → q [T,queryWidth] and the rows to cache: k, v
 * [T,kvHeads·headDim] for gqa; k [T,kvLora+rope] for mla, whose queries are carried into the latent space (absorbed, DeepSeek-V2
 * §2.1.2).
 */
export const projectGraph = (config: ModelConfig, precision: Precision): Graph => {
  const g = new Graph()
  const h = g.input('h', 'float32', ['T', config.hidden])
  const rotate = rotation(g, config)
  const rows = asRows(g, entering(g, h, 'norm', config), precision)
  const { attention } = config
  if (attention.kind === 'gqa') projectGqa(g, attention, config, rows, rotate)
  else projectMla(g, attention, config, rows, precision, rotate)
  return g
}

/** x [T,heads·dim] → [1,T,heads·dim] with rope; else as it is. */
type Rotate = (x: Value, heads: number, dim: number) => Value

const rotation = (g: Graph, { positions }: ModelConfig): Rotate => {
  if (positions.kind !== 'rope') return (x) => x
  const half = positions.dim / 2
  const cos = g.input('cos', 'float32', [1, 'T', half])
  const sin = g.input('sin', 'float32', [1, 'T', half])
  const interleaved = positions.layout === 'interleaved' ? 1 : 0
  return (x, heads, dim) => {
    const width = heads * dim
    const attributes = {
      interleaved,
      num_heads: heads,
      rotary_embedding_dim: positions.dim === dim ? 0 : positions.dim,
    }
    return g.op('RotaryEmbedding', [reshape(g, x, [1, -1, width]), cos, sin], attributes)
  }
}

const projectGqa = (g: Graph, a: GqaAttention, config: ModelConfig, rows: Rows, rotate: Rotate): void => {
  const project = (name: 'q' | 'k' | 'v', heads: number): Value => {
    let y = biased(g, rows, name, config.hidden, heads * a.headDim, a.bias[name])
    if (name !== 'v') y = normaliseHeads(g, y, `${name}.norm`, heads, a, config.norm.eps)
    if (a.clip !== null)
      y = g.op('Clip', [y, g.constant('float32', [], [-a.clip]), g.constant('float32', [], [a.clip])])
    return name === 'v' ? y : rotate(y, heads, a.headDim)
  }
  const turned = config.positions.kind === 'rope' ? [1, 'T'] : ['T']
  g.output('q', project('q', a.heads), 'float32', [...turned, a.heads * a.headDim])
  g.output('k', project('k', a.kvHeads), 'float32', [...turned, a.kvHeads * a.headDim])
  g.output('v', project('v', a.kvHeads), 'float32', ['T', a.kvHeads * a.headDim])
}

const normaliseHeads = (g: Graph, y: Value, name: string, heads: number, a: GqaAttention, eps: number): Value => {
  if (a.qkNorm === 'none') return y
  if (a.qkNorm === 'full') return rmsNorm(g, y, name, heads * a.headDim, eps)
  const perHead = rmsNorm(g, reshape(g, y, [-1, heads, a.headDim]), name, a.headDim, eps)
  return reshape(g, perHead, [-1, heads * a.headDim])
}

const projectMla = (
  g: Graph,
  a: MlaAttention,
  config: ModelConfig,
  rows: Rows,
  precision: Precision,
  rotate: Rotate,
): void => {
  const headWidth = a.nope + a.rope
  let query: Value
  if (a.qLora === null) query = linear(g, rows, 'q', config.hidden, a.heads * headWidth)
  else {
    const low = biased(g, rows, 'q.a', config.hidden, a.qLora, a.bias)
    const normed = asRows(g, rmsNorm(g, low, 'q.a.norm', a.qLora, a.eps), precision)
    query = linear(g, normed, 'q.b', a.qLora, a.heads * headWidth)
  }
  const [plain, turning] = split(g, reshape(g, query, [-1, a.heads, headWidth]), 2, [a.nope, a.rope])
  // One matrix per head: a batched MatMul is not prepacked and so not bit-identical over T.
  const latent = perHead(g, plain, a.heads, a.nope, 'absorb.k', a.kvLora)
  const turned = reshape(g, rotate(reshape(g, turning, [-1, a.heads * a.rope]), a.heads, a.rope), [-1, a.heads, a.rope])
  const width = a.kvLora + a.rope
  g.output('q', g.op('Concat', [latent, turned], { axis: 2 }), 'float32', ['T', a.heads, width])

  const [compressed, key] = split(g, biased(g, rows, 'kv.a', config.hidden, width, a.bias), 1, [a.kvLora, a.rope])
  const c = rmsNorm(g, compressed, 'kv.a.norm', a.kvLora, a.eps)
  const placed = reshape(g, rotate(key, 1, a.rope), [-1, a.rope])
  g.output('k', g.op('Concat', [c, placed], { axis: 1 }), 'float32', ['T', width])
}

/** x [T,heads,in] times one matrix [in,out] per head → [T,heads,out], in fp32. */
const perHead = (g: Graph, x: Value, heads: number, inWidth: number, name: string, outWidth: number): Value => {
  const pieces = heads === 1 ? [x] : split(g, x, 1, Array(heads).fill(1))
  const products = pieces.map((piece, head) => {
    const weight = g.weight(`${name}.${head}`, 'float32', [inWidth, outWidth])
    return reshape(g, g.op('MatMul', [reshape(g, piece, [-1, inWidth]), weight]), [-1, 1, outWidth])
  })
  return heads === 1 ? products[0] : g.op('Concat', products, { axis: 1 })
}

/** Which rows an attention sees: causal, those up to a row's own; else all. A mask [S,C], or one for each head [1,heads,S,C], is added to q·k. */
export type Sight = { causal: boolean; mask: 'none' | 'rows' | 'heads' }

/**
 * Attention of one sequence over its cache: q [S,queryWidth] are its last S rows (of any order where not causal), k and v
 * [1,kvHeads,capacity,dim] (mla: k is both), length [1] the valid rows; mask as `sight` has it. → mixed [S,mixedWidth]. Holds no
 * weights.
 */
export const attentionGraph = (config: ModelConfig, sight: Sight): Graph => {
  const { attention: a } = config
  const g = new Graph()
  const [key] = cacheArrays(config)
  const q = reshape(g, g.input('q', 'float32', ['S', queryWidth(config)]), [1, -1, a.heads, key.dim])
  const k = g.input('k', 'float32', [1, key.heads, 'C', key.dim])
  const v = a.kind === 'mla' ? k : g.input('v', 'float32', [1, key.heads, 'C', key.dim])
  const maskDims = sight.mask === 'heads' ? [1, a.heads, 'S', 'C'] : ['S', 'C']
  const mask = sight.mask === 'none' ? '' : g.input('mask', 'float32', maskDims)
  const length = g.input('length', 'int64', [1])
  const heads = g.op('Transpose', [q], { perm: [0, 2, 1, 3] })
  const inputs = [heads, k, v, mask, '', '', length]
  const mixed = g.op('Attention', inputs, { is_causal: sight.causal ? 1 : 0, scale: { float: a.scale } })
  const rows = g.op('Transpose', [mixed], { perm: [0, 2, 1, 3] })
  const values = a.kind === 'mla' ? split(g, rows, 3, [a.kvLora, a.rope])[0] : rows
  g.output('mixed', values, 'float32', [1, 'S', a.heads, mixedWidth(config) / a.heads])
  return g
}

/** Keys and values of an encoder's rows h [T,H], as a decoder layer sees them → k, v [T,kvHeads·headDim]. */
export const sourceGraph = (config: ModelConfig, precision: Precision): Graph => {
  const { hidden } = config
  const a = crossing(config)
  const g = new Graph()
  const rows = asRows(g, entering(g, g.input('h', 'float32', ['T', hidden]), 'norm', config), precision)
  const width = a.kvHeads * a.headDim
  for (const name of ['k', 'v'] as const)
    g.output(name, biased(g, rows, name, hidden, width, a.bias[name]), 'float32', ['T', width])
  return g
}

/**
 * Output projection, residual and norm of a decoder's attention to its own rows, and the queries of its attention to an encoder's.
 * h [T,H], mixed [T,mixedWidth] → h.out [T,H], q [T,queryWidth].
 */
export const crossGraph = (config: ModelConfig, precision: Precision): Graph => {
  const { hidden } = config
  const a = crossing(config)
  const g = new Graph()
  const residual = g.input('h', 'float32', ['T', hidden])
  const width = a.heads * a.headDim
  const mixed = asRows(g, g.input('mixed', 'float32', ['T', width]), precision)
  const h = leaving(g, residual, biased(g, mixed, 'o', width, hidden, a.bias.o), 'norm', config)
  g.output('h.out', h, 'float32', ['T', hidden])
  const rows = asRows(g, entering(g, h, 'cross.norm', config), precision)
  g.output('q', biased(g, rows, 'q', hidden, width, a.bias.q), 'float32', ['T', width])
  return g
}

/** Only grouped-query attention sees an encoder's rows. */
const crossing = ({ attention }: ModelConfig): GqaAttention => {
  assert(attention.kind === 'gqa', 'an encoder–decoder has grouped-query attention')
  return attention
}

/**
 * Output projection of the layer's last attention, residual, second norm and router. h [T,H], mixed [T,mixedWidth] → h [T,H] (residual), rows (and scale [T,1] with
 * int8) for the experts, affinity [T,E] in sparse layers, share [T,1] where shared experts are gated. The router stays fp32:
 * quantising it changes routes.
 */
export const outputGraph = (config: ModelConfig, layer: number, precision: Precision): Graph => {
  const { attention: a, hidden, moe } = config
  const g = new Graph()
  const residual = g.input('h', 'float32', ['T', hidden])
  const mixed = g.input('mixed', 'float32', ['T', mixedWidth(config)])
  const valueWidth = a.heads * (a.kind === 'mla' ? a.valueDim : a.headDim)
  const values =
    a.kind === 'gqa'
      ? mixed
      : reshape(g, perHead(g, reshape(g, mixed, [-1, a.heads, a.kvLora]), a.heads, a.kvLora, 'absorb.v', a.valueDim), [
          -1,
          valueWidth,
        ])
  const bias = a.kind === 'mla' ? a.bias : a.bias.o
  const projected = biased(g, asRows(g, values, precision), 'o', valueWidth, hidden, bias)
  const h = leaving(g, residual, projected, 'norm', config)
  g.output('h.out', h, 'float32', ['T', hidden])

  const x = entering(g, h, 'ffn.norm', config)
  const rows = asRows(g, x, precision)
  if (rows.kind !== 'int8') g.output('rows', rows.x, 'float32', ['T', hidden])
  else {
    g.output('rows', rows.q, 'uint8', ['T', hidden])
    g.output('scale', rows.scale, 'float32', ['T', 1])
  }
  if (config.layers[layer].ffn === 'dense') return g
  const scores = g.op('MatMul', [x, g.weight('router', 'float32', [hidden, moe.experts])])
  const affinity = moe.router.score === 'softmax' ? g.op('Softmax', [scores], { axis: -1 }) : g.op('Sigmoid', [scores])
  g.output('affinity', affinity, 'float32', ['T', moe.experts])
  if (moe.sharedGate) {
    const share = g.op('Sigmoid', [g.op('MatMul', [x, g.weight('shared.router', 'float32', [hidden, 1])])])
    g.output('share', share, 'float32', ['T', 1])
  }
  return g
}
