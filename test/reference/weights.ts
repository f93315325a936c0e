import type { ExpertTensor, ModelConfig, ModelTensor, Source, WeightMap } from '../../shared/model/config.ts'
import { expertTensors, layerTensors, modelTensors } from '../../shared/model/tensors.ts'
import type { Tensors } from './attention.ts'
import type { FfnWeights } from './ffn.ts'

/** The description of a checkpoint and a reader of its tensors as fp32. */
export type OpenModel = {
  config: ModelConfig
  weights: WeightMap
  checkpoint: { read(source: Source): Promise<Float32Array> }
}

/** Every tensor of the model that its config calls for. `head` is the embedding table where the two are tied. */
export type Weights = {
  model: Partial<Record<ModelTensor, Float32Array>>
  layers: { tensors: Tensors; shared: FfnWeights | null; experts: FfnWeights[] }[]
}

export const readWeights = async ({ config, weights, checkpoint }: OpenModel): Promise<Weights> => {
  const readAll = async <Name extends string>(names: Iterable<Name>, source: (name: Name) => Source) => {
    const tensors: Partial<Record<Name, Float32Array>> = {}
    for (const name of names) tensors[name] = await checkpoint.read(source(name))
    return tensors
  }
  const ofExpert = [...expertTensors(config).keys()]
  const readLayer = async (layer: number): Promise<Weights['layers'][number]> => {
    const tensors: Tensors = await readAll(layerTensors(config, layer).keys(), (name) => weights.layer(layer, name))
    const shared: FfnWeights = {}
    for (const name of ofExpert) {
      const tensor = tensors[`shared.${name}` satisfies `shared.${ExpertTensor}`]
      if (tensor) shared[name] = tensor
    }
    const experts: FfnWeights[] = []
    for (let expert = 0; config.layers[layer].ffn === 'sparse' && expert < config.moe.experts; expert++)
      experts.push(await readAll(ofExpert, (name) => weights.expert(layer, expert, name)))
    return { tensors, shared: shared.down ? shared : null, experts }
  }
  const model = await readAll(modelTensors(config).keys(), (name) =>
    weights.model(name === 'head' && config.tied ? 'embed' : name),
  )
  const layers: Weights['layers'] = []
  for (let layer = 0; layer < config.layers.length; layer++) layers.push(await readLayer(layer))
  return { model, layers }
}
