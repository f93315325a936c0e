import type { LayerTensor, ModelConfig } from '../../shared/model/config.ts'
import type { Weights } from '../../shared/model/fill.ts'
import { ropeOf } from '../../shared/model/rope.ts'
import { linear, sigmoid } from '../reference/linear.ts'
import { rmsNorm } from '../reference/norm.ts'
import { rotate, type Turn } from '../reference/rope.ts'
import { affinities } from '../reference/router.ts'

/** x [T,in] · weight [out,in]ᵀ + bias: the oracle's own, or another arithmetic to put in its place. */
export type Multiply = typeof linear

export const readLayer = (model: Weights, layer: number) => (name: LayerTensor) =>
  model.checkpoint.read(model.weights.layer(layer, name))

export const rowsOf = (x: Float32Array, width: number): Float32Array[] =>
  Array.from({ length: x.length / width }, (_, row) => x.slice(row * width, (row + 1) * width))

/** Rotates in place every run of `width` values from `offset` on, the T rows of y by their turns. */
const turned = (y: Float32Array, turns: readonly Turn[], width: number, offset: number, config: ModelConfig) => {
  const { layout } = ropeOf(config)
  const rowWidth = y.length / turns.length
  for (const [row, turn] of turns.entries())
    for (let at = row * rowWidth; at < (row + 1) * rowWidth; at += width) rotate(y, at + offset, turn, layout)
  return y
}

/** What the project graph gives, written out with the oracle's pieces: queries and the rows to cache. */
export const plainProject = async (
  model: Weights,
  layer: number,
  h: Float32Array,
  turns: readonly Turn[],
  multiply: Multiply = linear,
): Promise<{ q: Float32Array; k: Float32Array; v?: Float32Array }> => {
  const { config } = model
  const { attention: a, hidden, norm } = config
  const read = readLayer(model, layer)
  const x = rmsNorm(h, await read('attention.norm'), norm.eps)
  if (a.kind === 'mla') return plainLatent(model, layer, x, turns, multiply)
  const project = async (name: 'q' | 'k' | 'v') => {
    const bias = a.bias[name] ? await read(`attention.${name}.bias`) : undefined
    let y = multiply(x, await read(`attention.${name}`), hidden, bias)
    if (name !== 'v' && a.qkNorm !== 'none') y = rmsNorm(y, await read(`attention.${name}.norm`), norm.eps)
    const { clip } = a
    if (clip !== null) y = y.map((value) => Math.min(Math.max(value, -clip), clip))
    return name === 'v' ? y : turned(y, turns, a.headDim, 0, config)
  }
  return { q: await project('q'), k: await project('k'), v: await project('v') }
}

/** mla: queries carried into the latent space, and the latent row [c | key]. */
const plainLatent = async (
  model: Weights,
  layer: number,
  x: Float32Array,
  turns: readonly Turn[],
  multiply: Multiply,
): Promise<{ q: Float32Array; k: Float32Array }> => {
  const { config } = model
  const { attention: a, hidden } = config
  if (a.kind !== 'mla') throw new Error('only mla has a latent space')
  const read = readLayer(model, layer)
  const bias = async (name: LayerTensor) => (a.bias ? read(name) : undefined)
  const width = a.kvLora + a.rope
  const latent = multiply(x, await read('attention.kv.a'), hidden, await bias('attention.kv.a.bias'))
  const k = turned(latent, turns, width, a.kvLora, config)
  const kvNorm = await read('attention.kv.a.norm')
  rowsOf(k, width).forEach((row, i) => {
    k.set(rmsNorm(row.slice(0, a.kvLora), kvNorm, a.eps), i * width)
  })
  const query = async () => {
    if (a.qLora === null) return multiply(x, await read('attention.q'), hidden)
    const low = multiply(x, await read('attention.q.a'), hidden, await bias('attention.q.a.bias'))
    return multiply(rmsNorm(low, await read('attention.q.a.norm'), a.eps), await read('attention.q.b'), a.qLora)
  }
  const headWidth = a.nope + a.rope
  const queries = rowsOf(turned(await query(), turns, headWidth, a.nope, config), headWidth)
  const kvB = rowsOf(await read('attention.kv.b'), a.kvLora)
  const q = new Float32Array(queries.length * width)
  queries.forEach((part, i) => {
    const head = (i % a.heads) * (a.nope + a.valueDim)
    for (let c = 0; c < a.kvLora; c++) {
      let sum = 0
      for (let d = 0; d < a.nope; d++) sum += part[d] * kvB[head + d][c]
      q[i * width + c] = sum
    }
    q.set(part.subarray(a.nope), i * width + a.kvLora)
  })
  return { q, k }
}

/** What the output graph gives at fp32; affinity and share are null where a layer has none. */
export const plainOutput = async (
  model: Weights,
  layer: number,
  h: Float32Array,
  mixed: Float32Array,
  multiply: Multiply = linear,
) => {
  const { config } = model
  const { attention: a, hidden, moe, norm } = config
  const read = readLayer(model, layer)
  const biased = a.kind === 'mla' ? a.bias : a.bias.o
  const values = a.kind === 'mla' ? await expand(model, layer, mixed) : mixed
  const width = a.heads * (a.kind === 'mla' ? a.valueDim : a.headDim)
  const o = multiply(values, await read('attention.o'), width, biased ? await read('attention.o.bias') : undefined)
  const sum = h.map((value, i) => value + o[i])
  const x = rmsNorm(sum, await read('ffn.norm'), norm.eps)
  const sparse = config.layers[layer].ffn === 'sparse'
  return {
    h: sum,
    x,
    affinity: sparse ? affinities(linear(x, await read('router'), hidden), moe.experts, moe.router.score) : null,
    share: sparse && moe.sharedGate ? linear(x, await read('shared.router'), hidden).map(sigmoid) : null,
  }
}

/** Latent results [T, heads·kvLora] → values [T, heads·valueDim]. */
const expand = async (model: Weights, layer: number, mixed: Float32Array): Promise<Float32Array> => {
  const { attention: a } = model.config
  if (a.kind !== 'mla') throw new Error('only mla has a latent space')
  const kvB = await readLayer(model, layer)('attention.kv.b')
  const values = rowsOf(mixed, a.kvLora).map((latent, i) => {
    const begin = ((i % a.heads) * (a.nope + a.valueDim) + a.nope) * a.kvLora
    return linear(latent, kvB.subarray(begin, begin + a.valueDim * a.kvLora), a.kvLora)
  })
  return Float32Array.from(values.flatMap((row) => [...row]))
}
