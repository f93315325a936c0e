import type {
  ExpertTensor,
  LayerTensor,
  ModelConfig,
  ModelTensor,
  Source,
  WeightMap,
} from '../../shared/model/config.ts'
import type { Tensors } from './attention.ts'
import type { Ffn } from './ffn.ts'

/** What `openModel` gives: the description of a checkpoint and a reader of its tensors as fp32. */
export type OpenModel = {
  config: ModelConfig
  weights: WeightMap
  checkpoint: { read(source: Source): Promise<Float32Array> }
}

/** Every tensor of the model. `head` is the embedding table where the two are tied. */
export type Weights = {
  model: Record<ModelTensor, Float32Array>
  layers: { tensors: Tensors; shared: Ffn | null; experts: Ffn[] }[]
}

const attentionTensors = ({ attention }: ModelConfig): LayerTensor[] => {
  const names: LayerTensor[] = ['attention.norm', 'attention.o', 'ffn.norm']
  if (attention.kind === 'gqa') {
    names.push('attention.q', 'attention.k', 'attention.v')
    if (attention.qkNorm !== 'none') names.push('attention.q.norm', 'attention.k.norm')
    for (const name of ['q', 'k', 'v', 'o'] as const) if (attention.bias[name]) names.push(`attention.${name}.bias`)
    return names
  }
  names.push('attention.kv.a', 'attention.kv.a.norm', 'attention.kv.b')
  if (attention.bias) names.push('attention.kv.a.bias', 'attention.o.bias')
  if (attention.qLora === null) return [...names, 'attention.q']
  if (attention.bias) names.push('attention.q.a.bias')
  return [...names, 'attention.q.a', 'attention.q.a.norm', 'attention.q.b']
}

const sparseTensors = ({ moe }: ModelConfig): LayerTensor[] => {
  const names: LayerTensor[] = ['router']
  if (moe.router.bias) names.push('router.bias')
  if (moe.sharedGate && moe.sharedWidth > 0) names.push('shared.router')
  return names
}

export const readWeights = async ({ config, weights, checkpoint }: OpenModel): Promise<Weights> => {
  const readLayer = async (layer: number): Promise<Weights['layers'][number]> => {
    const sparse = config.layers[layer].ffn === 'sparse'
    const tensors: Tensors = {}
    for (const name of [...attentionTensors(config), ...(sparse ? sparseTensors(config) : [])])
      tensors[name] = await checkpoint.read(weights.layer(layer, name))
    const ffn = async (source: (name: ExpertTensor) => Source): Promise<Ffn> => ({
      gate: await checkpoint.read(source('gate')),
      up: await checkpoint.read(source('up')),
      down: await checkpoint.read(source('down')),
    })
    const hasShared = !sparse || config.moe.sharedWidth > 0
    const shared = hasShared ? await ffn((name) => weights.layer(layer, `shared.${name}`)) : null
    const experts: Ffn[] = []
    for (let expert = 0; sparse && expert < config.moe.experts; expert++)
      experts.push(await ffn((name) => weights.expert(layer, expert, name)))
    return { tensors, shared, experts }
  }
  const embed = await checkpoint.read(weights.model('embed'))
  const head = config.tied ? embed : await checkpoint.read(weights.model('head'))
  const norm = await checkpoint.read(weights.model('norm'))
  const layers: Weights['layers'] = []
  for (let layer = 0; layer < config.layers.length; layer++) layers.push(await readLayer(layer))
  return { model: { embed, norm, head }, layers }
}
