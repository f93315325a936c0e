import assert from 'node:assert/strict'
import type { ExpertTensor, LayerTensor, ModelConfig, Precision, Source, WeightMap } from './config.ts'
import type { Part } from './part.ts'
import { columnSizes, divideRows, equalise, quantiseMatrix, rowSizes, scaleColumns, transpose } from './quantise.ts'

/** What conversion needs of a model: shared/model/open.ts gives it. */
export type Weights = {
  config: ModelConfig
  weights: WeightMap
  checkpoint: { read(source: Source): Promise<Float32Array> }
}

/** Receives each tensor of a part under its name in the graph. */
export type Put = (name: string, values: Float32Array | Uint8Array) => Promise<void>

/** Reads a part's tensors from the checkpoint, one at a time, and puts them as its graph wants them. */
export const fillPart = async (model: Weights, part: Part, precision: Precision, put: Put): Promise<void> => {
  const read = (source: Source) => model.checkpoint.read(source)
  const { config, weights } = model
  /** A matrix [out,in] as its graph holds it. */
  const matrix = async (name: string, values: Float32Array, width: number): Promise<void> => {
    const out = values.length / width
    if (precision === 'fp32') return put(name, transpose(values, out, width))
    const { weight, scale } = quantiseMatrix(values, out, width)
    await put(name, weight)
    await put(`${name}.scale`, scale)
  }
  switch (part.kind) {
    case 'embed':
      return put('embed', await read(weights.model('embed')))
    case 'head': {
      const head = await read(weights.model('head'))
      const norm = await read(weights.model('norm'))
      const factors = evenNorm(norm, head, precision)
      await put('norm', divideRows(norm, factors))
      return matrix('head', scaleColumns(head, factors), config.hidden)
    }
    case 'project':
      return fillProject(model, part.layer, precision, put, matrix)
    case 'output':
      return fillOutput(model, part.layer, precision, put, matrix)
    case 'shared':
      return fillFfn(model, part.layer, (name) => weights.layer(part.layer, `shared.${name}`), precision, matrix)
    case 'expert':
      return fillFfn(model, part.layer, (name) => weights.expert(part.layer, part.expert, name), precision, matrix)
  }
}

type PutMatrix = (name: string, values: Float32Array, width: number) => Promise<void>

/** Factors that even out the channels between a norm and a matrix that reads it; fp32 has no need of them. */
const evenNorm = (norm: Float32Array, consumer: Float32Array, precision: Precision): Float32Array | null =>
  precision === 'fp32' ? null : equalise(Float64Array.from(norm, Math.abs), columnSizes(consumer, norm.length))

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
  const norm = await read('attention.norm')
  const first = a.kind === 'mla' && a.qLora !== null ? 'attention.q.a' : 'attention.q'
  const factors = evenNorm(norm, await read(first), precision)
  await put('norm', divideRows(norm, factors))
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
  await matrix('o', await read('attention.o'), a.heads * (a.kind === 'mla' ? a.valueDim : a.headDim))
  if (a.kind === 'mla' ? a.bias : a.bias.o) await put('o.bias', await read('attention.o.bias'))
  const factors = await ffnFactors(model, layer, precision)
  await put('ffn.norm', divideRows(await read('ffn.norm'), factors))
  if (config.layers[layer].ffn === 'dense') return
  await put('router', transpose(scaleColumns(await read('router'), factors), moe.experts, hidden))
  if (moe.sharedGate) await put('shared.router', scaleColumns(await read('shared.router'), factors))
}

/**
 * Factors between a layer's second norm and all that reads it. The router stands for the experts: every process that converts one
 * expert must arrive at the same factors without reading the others.
 */
const ffnFactors = async (
  { config, weights, checkpoint }: Weights,
  layer: number,
  precision: Precision,
): Promise<Float32Array | null> => {
  if (precision === 'fp32') return null
  const consumer = config.layers[layer].ffn === 'dense' ? 'shared.gate' : 'router'
  const norm = await checkpoint.read(weights.layer(layer, 'ffn.norm'))
  return evenNorm(norm, await checkpoint.read(weights.layer(layer, consumer)), precision)
}

const fillFfn = async (
  model: Weights,
  layer: number,
  source: (name: ExpertTensor) => Source,
  precision: Precision,
  matrix: PutMatrix,
): Promise<void> => {
  const { config, checkpoint } = model
  const outer = await ffnFactors(model, layer, precision)
  const gate = scaleColumns(await checkpoint.read(source('gate')), outer)
  await matrix('gate', gate, config.hidden)
  const up = scaleColumns(await checkpoint.read(source('up')), outer)
  const down = await checkpoint.read(source('down'))
  const width = up.length / config.hidden
  const inner = precision === 'fp32' ? null : equalise(rowSizes(up, config.hidden), columnSizes(down, width))
  await matrix('up', divideRows(up, inner), config.hidden)
  await matrix('down', scaleColumns(down, inner), width)
}
