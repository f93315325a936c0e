import assert from 'node:assert/strict'
import type { ExpertTensor, LayerTensor, ModelConfig, ModelTensor, Precision, Source, WeightMap } from './config.ts'
import { formOf, type Part } from './part.ts'
import {
  columnSizes,
  divideRows,
  equalise,
  quantiseBlocks,
  quantiseMatrix,
  rowSizes,
  scaleColumns,
  transpose,
} from './quantise.ts'
import { hasCross } from './tensors.ts'

/** What conversion needs of a model: shared/model/open.ts gives it. */
export type Weights = {
  config: ModelConfig
  weights: WeightMap
  checkpoint: { read(source: Source): Promise<Float32Array> }
}

/** Receives each tensor of a part under its name in the graph. */
export type Put = (name: string, values: Float32Array | Int8Array | Uint8Array) => Promise<void>

/** Reads a part's tensors from the checkpoint, one at a time, and puts them as its graph wants them. */
export const fillPart = async (model: Weights, part: Part, precision: Precision, put: Put): Promise<void> => {
  const read = (source: Source) => model.checkpoint.read(source)
  const { config, weights } = model
  const form = formOf(part, precision)
  /** A matrix [out,in] as its graph holds it. */
  const matrix = async (name: string, values: Float32Array, width: number): Promise<void> => {
    const out = values.length / width
    if (form === 'fp32') return put(name, transpose(values, out, width))
    const { weight, scale } = (form === 'int8' ? quantiseMatrix : quantiseBlocks)(values, out, width)
    await put(name, weight)
    await put(`${name}.scale`, scale)
  }
  switch (part.kind) {
    case 'embed':
      return put('embed', await read(weights.model('embed')))
    case 'head': {
      const head = await read(weights.model('head'))
      const pre = config.norm.placement === 'pre'
      const factors = pre ? await evenSource(model, weights.model('norm'), head, precision) : null
      if (pre) await putNorm(model, 'norm', put, 'norm', modelSource(model), factors)
      if (config.head.bias) await put('head.bias', await read(weights.model('head.bias')))
      return matrix('head', scaleColumns(head, factors), config.hidden)
    }
    case 'place': {
      const prefix = part.stack === 'encoder' ? 'encoder.' : ''
      if (config.positions.kind === 'learned') await put('positions', await read(weights.model(`${prefix}positions`)))
      if (config.embedding.norm) await putNorm(model, `${prefix}embed.norm`, put, 'norm', modelSource(model), null)
      return
    }
    case 'source':
      return fillSource(model, part.layer, precision, put, matrix)
    case 'cross':
      return fillCross(model, part.layer, precision, put, matrix)
    case 'settle':
      return putNorm(model, 'ffn.norm', put, 'norm', layerSource(model, part.layer), null)
    case 'project':
      return fillProject(model, part.layer, precision, put, matrix)
    case 'output':
      return fillOutput(model, part.layer, precision, put, matrix)
    case 'shared':
      return fillFfn(model, part.layer, (name) => weights.layer(part.layer, `shared.${name}`), precision, put, matrix)
    case 'expert':
      return fillFfn(model, part.layer, (name) => weights.expert(part.layer, part.expert, name), precision, put, matrix)
  }
}

type PutMatrix = (name: string, values: Float32Array, width: number) => Promise<void>

/** Factors that even out the channels between a norm and a matrix that reads it; fp32 has no need of them. */
const evenNorm = (norm: Float32Array, consumer: Float32Array, precision: Precision): Float32Array | null =>
  precision === 'fp32' ? null : equalise(Float64Array.from(norm, Math.abs), columnSizes(consumer, norm.length))

type Norm = 'norm' | 'encoder.norm' | 'embed.norm' | 'encoder.embed.norm'
type LayerNorm = 'attention.norm' | 'cross.norm' | 'ffn.norm'

const modelSource =
  ({ weights }: Weights) =>
  (name: ModelTensor): Source =>
    weights.model(name)
const layerSource =
  ({ weights }: Weights, layer: number) =>
  (name: LayerTensor): Source =>
    weights.layer(layer, name)

/** Puts a norm, divided by factors where what reads it was multiplied, under a name of its graph. */
const putNorm = async <Name extends Norm | LayerNorm>(
  { config, checkpoint }: Weights,
  tensor: Name,
  put: Put,
  name: string,
  source: (name: Name | `${Name}.bias`) => Source,
  factors: Float32Array | null,
): Promise<void> => {
  await put(name, divideRows(await checkpoint.read(source(tensor)), factors))
  if (config.norm.kind === 'layer')
    await put(`${name}.bias`, divideRows(await checkpoint.read(source(`${tensor}.bias`)), factors))
}

/** evenNorm of a norm in the checkpoint. Nothing can be folded where the rows go on as the residual too. */
const evenSource = async (
  { config, checkpoint }: Weights,
  norm: Source,
  consumer: Float32Array,
  precision: Precision,
): Promise<Float32Array | null> => {
  if (precision === 'fp32' || config.norm.placement === 'post') return null
  return evenNorm(await checkpoint.read(norm), consumer, precision)
}

/** A decoder layer's keys and values of the encoder's rows. */
const fillSource = async (
  model: Weights,
  layer: number,
  precision: Precision,
  put: Put,
  matrix: PutMatrix,
): Promise<void> => {
  const { config, weights, checkpoint } = model
  const { attention: a, hidden } = config
  assert(a.kind === 'gqa')
  const read = (name: LayerTensor) => checkpoint.read(weights.layer(layer, name))
  const pre = config.norm.placement === 'pre'
  const factors = pre ? await evenSource(model, weights.model('encoder.norm'), await read('cross.k'), precision) : null
  if (pre) await putNorm(model, 'encoder.norm', put, 'norm', modelSource(model), factors)
  for (const name of ['k', 'v'] as const) {
    await matrix(name, scaleColumns(await read(`cross.${name}`), factors), hidden)
    if (a.bias[name]) await put(`${name}.bias`, await read(`cross.${name}.bias`))
  }
}

/** What leads from a decoder layer's attention to its own rows to that to the encoder's. */
const fillCross = async (
  model: Weights,
  layer: number,
  precision: Precision,
  put: Put,
  matrix: PutMatrix,
): Promise<void> => {
  const { config, weights, checkpoint } = model
  const { attention: a, hidden } = config
  assert(a.kind === 'gqa')
  const read = (name: LayerTensor) => checkpoint.read(weights.layer(layer, name))
  await matrix('o', await read('attention.o'), a.heads * a.headDim)
  if (a.bias.o) await put('o.bias', await read('attention.o.bias'))
  const pre = config.norm.placement === 'pre'
  const query = await read('cross.q')
  const factors = pre ? await evenSource(model, weights.layer(layer, 'cross.norm'), query, precision) : null
  if (pre) await putNorm(model, 'cross.norm', put, 'cross.norm', layerSource(model, layer), factors)
  else await putNorm(model, 'attention.norm', put, 'norm', layerSource(model, layer), null)
  await matrix('q', scaleColumns(query, factors), hidden)
  if (a.bias.q) await put('q.bias', await read('cross.q.bias'))
}

const fillProject = async (
  model: Weights,
  layer: number,
  precision: Precision,
  put: Put,
  matrix: PutMatrix,
): Promise<void> => {
  const { config, weights, checkpoint } = model
  const { attention: a, hidden } = config
  const read = (name: LayerTensor) => checkpoint.read(weights.layer(layer, name))
  const first = a.kind === 'mla' && a.qLora !== null ? 'attention.q.a' : 'attention.q'
  const factors = await evenSource(model, weights.layer(layer, 'attention.norm'), await read(first), precision)
  if (config.norm.placement === 'pre')
    await putNorm(model, 'attention.norm', put, 'norm', layerSource(model, layer), factors)
  /** A projection that reads the norm, with its bias. */
  const project = async (name: string, tensor: LayerTensor, bias: LayerTensor | null): Promise<void> => {
    await matrix(name, scaleColumns(await read(tensor), factors), hidden)
    if (bias) await put(`${name}.bias`, await read(bias))
  }
  if (a.kind === 'gqa') {
    for (const name of ['q', 'k', 'v'] as const) {
      await project(name, `attention.${name}`, a.bias[name] ? `attention.${name}.bias` : null)
      if (name !== 'v' && a.qkNorm !== 'none') await put(`${name}.norm`, await read(`attention.${name}.norm`))
    }
    return
  }
  if (a.qLora === null) await project('q', 'attention.q', null)
  else {
    await project('q.a', 'attention.q.a', a.bias ? 'attention.q.a.bias' : null)
    const inner = await read('attention.q.a.norm')
    const up = await read('attention.q.b')
    const even = evenNorm(inner, up, precision)
    await put('q.a.norm', divideRows(inner, even))
    await matrix('q.b', scaleColumns(up, even), a.qLora)
  }
  await project('kv.a', 'attention.kv.a', a.bias ? 'attention.kv.a.bias' : null)
  await put('kv.a.norm', await read('attention.kv.a.norm'))
  await putAbsorbed(model, layer, 'k', put)
}

/** kv.b [heads·(nope+value), kvLora] cut into one matrix per head: keys [nope,kvLora] act on queries, values [kvLora,value] on results. */
const putAbsorbed = async (
  { config, weights, checkpoint }: Weights,
  layer: number,
  side: 'k' | 'v',
  put: Put,
): Promise<void> => {
  const { attention: a } = config
  assert(a.kind === 'mla')
  const kvB = await checkpoint.read(weights.layer(layer, 'attention.kv.b'))
  const perHead = (a.nope + a.valueDim) * a.kvLora
  for (let head = 0; head < a.heads; head++) {
    const middle = head * perHead + a.nope * a.kvLora
    if (side === 'k') await put(`absorb.k.${head}`, kvB.slice(head * perHead, middle))
    else await put(`absorb.v.${head}`, transpose(kvB.subarray(middle, (head + 1) * perHead), a.valueDim, a.kvLora))
  }
}

const fillOutput = async (
  model: Weights,
  layer: number,
  precision: Precision,
  put: Put,
  matrix: PutMatrix,
): Promise<void> => {
  const { config, weights, checkpoint } = model
  const { attention: a, hidden, moe } = config
  const read = (name: LayerTensor) => checkpoint.read(weights.layer(layer, name))
  if (a.kind === 'mla') await putAbsorbed(model, layer, 'v', put)
  const last = hasCross(config, layer) ? 'cross' : 'attention'
  await matrix('o', await read(`${last}.o`), a.heads * (a.kind === 'mla' ? a.valueDim : a.headDim))
  if (a.kind === 'mla' ? a.bias : a.bias.o) await put('o.bias', await read(`${last}.o.bias`))
  const factors = await ffnFactors(model, layer, precision)
  const source = layerSource(model, layer)
  if (config.norm.placement === 'pre') await putNorm(model, 'ffn.norm', put, 'ffn.norm', source, factors)
  else await putNorm(model, `${last}.norm`, put, 'norm', source, null)
  if (config.layers[layer].ffn === 'dense') return
  await put('router', transpose(scaleColumns(await read('router'), factors), moe.experts, hidden))
  if (moe.sharedGate) await put('shared.router', scaleColumns(await read('shared.router'), factors))
}

/**
 * Factors between a layer's second norm and all that reads it. The router stands for the experts: every process that converts one
 * expert must arrive at the same factors without reading the others.
 */
const ffnFactors = async (model: Weights, layer: number, precision: Precision): Promise<Float32Array | null> => {
  if (precision === 'fp32') return null
  const { config, weights, checkpoint } = model
  const first = config.ffn.gated ? 'shared.gate' : 'shared.up'
  const consumer = weights.layer(layer, config.layers[layer].ffn === 'dense' ? first : 'router')
  return evenSource(model, weights.layer(layer, 'ffn.norm'), await checkpoint.read(consumer), precision)
}

const fillFfn = async (
  model: Weights,
  layer: number,
  source: (name: ExpertTensor) => Source,
  precision: Precision,
  put: Put,
  matrix: PutMatrix,
): Promise<void> => {
  const { config, checkpoint } = model
  const { ffn, hidden } = config
  const outer = await ffnFactors(model, layer, precision)
  if (ffn.gated) await matrix('gate', scaleColumns(await checkpoint.read(source('gate')), outer), hidden)
  const up = scaleColumns(await checkpoint.read(source('up')), outer)
  const down = await checkpoint.read(source('down'))
  const width = up.length / hidden
  // A factor passes through the product of a gated FFN, and through relu, but through no other activation.
  const passes = ffn.gated || ffn.activation === 'relu'
  const inner = precision === 'fp32' || !passes ? null : equalise(rowSizes(up, hidden), columnSizes(down, width))
  await matrix('up', divideRows(up, inner), hidden)
  if (ffn.bias) await put('up.bias', divideRows(await checkpoint.read(source('up.bias')), inner))
  await matrix('down', scaleColumns(down, inner), width)
  if (ffn.bias) await put('down.bias', await checkpoint.read(source('down.bias')))
}
