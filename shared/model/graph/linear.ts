import type { ModelConfig, Precision } from '../config.ts'
import { BLOCK } from '../quantise.ts'
import type { Graph, Value } from './onnx.ts'

/**
 * A row block as a matrix sees it. fp32, int4: the rows [T,in]. int8: each row quantised by itself, rows ≈ (q − 128) · scale / 127,
 * so that no row's bits depend on its neighbours (one scale per tensor would mix them).
 */
export type Rows = { kind: 'fp32'; x: Value } | { kind: 'int4'; x: Value } | { kind: 'int8'; q: Value; scale: Value }

/** Below this a row counts as zero; keeps 0/0 out of the graph. */
const SMALLEST_SCALE = 1e-30

const QUANTUM = 1 / 127
const ZERO = 128

/** Quantises each row of x [T,in] by its largest magnitude to uint8 [T,in] and scale [T,1]. */
export const quantise = (g: Graph, x: Value): { q: Value; scale: Value } => {
  const axes = g.constant('int64', [1], [-1])
  const largest = g.op('ReduceMax', [g.op('Abs', [x]), axes], { keepdims: 1 })
  const scale = g.op('Max', [largest, g.constant('float32', [], [SMALLEST_SCALE])])
  const unit = g.op('Div', [x, scale])
  const q = g.op('QuantizeLinear', [unit, g.constant('float32', [], [QUANTUM]), g.constant('uint8', [], [ZERO])])
  return { q, scale }
}

/** x [T,in] in the form matrices of this precision take. */
export const asRows = (g: Graph, x: Value, precision: Precision): Rows =>
  precision === 'int8' ? { kind: precision, ...quantise(g, x) } : { kind: precision, x }

/** Declares rows as inputs of a graph: `rows` [T,width], and `scale` [T,1] with int8. */
export const inputRows = (g: Graph, width: number, precision: Precision): Rows =>
  precision === 'int8'
    ? { kind: precision, q: g.input('rows', 'uint8', ['T', width]), scale: g.input('scale', 'float32', ['T', 1]) }
    : { kind: precision, x: g.input('rows', 'float32', ['T', width]) }

/**
 * rows [T,in] · weight [in,out] → [T,out]. With int8 the weights are int8 with one scale per output channel, and sums are
 * exact integers. Signed weights, because VNNI multiplies u8 by s8: u8 by u8 takes more than twice the time there.
 * With int4 they are quantiseBlocks'.
 */
export const linear = (g: Graph, rows: Rows, name: string, inWidth: number, outWidth: number): Value => {
  if (rows.kind === 'fp32') return g.op('MatMul', [rows.x, g.weight(name, 'float32', [inWidth, outWidth])])
  if (rows.kind === 'int4') return byBlocks(g, rows.x, name, inWidth, outWidth)
  const weight = g.weight(name, 'int8', [inWidth, outWidth])
  const scale = g.weight(`${name}.scale`, 'float32', [outWidth])
  const zero = g.constant('uint8', [], [ZERO])
  const quantum = g.constant('float32', [], [QUANTUM])
  const inputs = [rows.q, weight, quantum, scale, zero]
  const product = g.ops('MatMulIntegerToFloat', inputs, 1, {}, 'com.microsoft')[0]
  return g.op('Mul', [product, rows.scale])
}

/** Sums in bytes: the kernel quantises each block of a row by itself, sums exact integers in it and the blocks' sums in fp32. */
const BYTES = 4

const byBlocks = (g: Graph, x: Value, name: string, inWidth: number, outWidth: number): Value => {
  const blocks = Math.ceil(inWidth / BLOCK)
  const weight = g.weight(name, 'uint8', [outWidth, blocks, BLOCK / 2])
  const scale = g.weight(`${name}.scale`, 'float32', [outWidth * blocks])
  const attributes = { K: inWidth, N: outWidth, bits: 4, block_size: BLOCK, accuracy_level: BYTES }
  return g.ops('MatMulNBits', [x, weight, scale], 1, attributes, 'com.microsoft')[0]
}

/** linear with a bias [out] where the checkpoint has one. */
export const biased = (g: Graph, rows: Rows, name: string, inWidth: number, outWidth: number, bias: boolean): Value => {
  const y = linear(g, rows, name, inWidth, outWidth)
  return bias ? g.op('Add', [y, g.weight(`${name}.bias`, 'float32', [outWidth])]) : y
}

/** RMS norm over the last axis (Zhang & Sennrich 2019): w · x / sqrt(mean(x²) + eps). */
export const rmsNorm = (g: Graph, x: Value, name: string, width: number, eps: number): Value =>
  g.op('RMSNormalization', [x, g.weight(name, 'float32', [width])], { axis: -1, epsilon: { float: eps } })

/** The model's norm over the last axis: rms, or layer (Ba et al. 2016), w · (x − mean(x)) / sqrt(variance(x) + eps) + b. */
export const normalise = (g: Graph, x: Value, name: string, { norm, hidden }: ModelConfig): Value => {
  if (norm.kind === 'rms') return rmsNorm(g, x, name, hidden, norm.eps)
  const weights = [g.weight(name, 'float32', [hidden]), g.weight(`${name}.bias`, 'float32', [hidden])]
  return g.op('LayerNormalization', [x, ...weights], { axis: -1, epsilon: { float: norm.eps } })
}

/** x before a sublayer, [T,H]: normed where norms come first. */
export const entering = (g: Graph, x: Value, name: string, config: ModelConfig): Value =>
  config.norm.placement === 'pre' ? normalise(g, x, name, config) : x

/** A sublayer's residual and result, [T,H] each, added, and normed where norms come last. */
export const leaving = (g: Graph, h: Value, y: Value, name: string, config: ModelConfig): Value => {
  const sum = g.op('Add', [h, y])
  return config.norm.placement === 'post' ? normalise(g, sum, name, config) : sum
}

export const reshape = (g: Graph, x: Value, dims: readonly number[]): Value =>
  g.op('Reshape', [x, g.constant('int64', [dims.length], dims)])

/** Cuts x along an axis into pieces of these sizes. */
export const split = (g: Graph, x: Value, axis: number, sizes: readonly number[]): Value[] =>
  g.ops('Split', [x, g.constant('int64', [sizes.length], sizes)], sizes.length, { axis })
