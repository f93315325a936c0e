import assert from 'node:assert/strict'
import type { Encoder, ExpertTensor, LayerTensor, ModelConfig, ModelTensor, Moe, WeightMap } from '../config.ts'
import { expertTensors, inEncoder, layerTensors, modelTensors } from '../tensors.ts'
import type { Keys } from './keys.ts'

export type Stack = 'encoder' | 'decoder'

/** Checkpoint names of an encoder–decoder's tensors; those that the config does not call for are never asked for. */
export type StackNames = {
  model: Partial<Record<ModelTensor, string>>
  /** Tensors of layer `index` of a stack, which counts from 0 in each. */
  layer(stack: Stack, index: number): Partial<Record<LayerTensor, string>>
  expert(stack: Stack, index: number, expert: number): Partial<Record<ExpertTensor, string>>
}

/** The weight map of an encoder–decoder: layers are numbered over the whole model, in the checkpoint over each stack. */
export const stackWeights = (config: ModelConfig, names: StackNames): WeightMap => {
  const ofModel = modelTensors(config)
  const ofExpert = expertTensors(config)
  const ofLayer = config.layers.map((_, layer) => layerTensors(config, layer))
  const placeOf = (layer: number): [Stack, number] =>
    inEncoder(config, layer) ? ['encoder', layer] : ['decoder', layer - (config.encoder?.layers ?? 0)]
  return {
    model: (name) => {
      const shape = ofModel.get(name)
      assert(shape, `the model has no tensor ${name}`)
      return { name: names.model[name === 'head' && config.tied ? 'embed' : name]!, shape }
    },
    layer: (layer, name) => {
      const shape = ofLayer[layer]?.get(name)
      assert(shape, `layer ${layer} has no tensor ${name}`)
      return { name: names.layer(...placeOf(layer))[name]!, shape }
    },
    expert: (layer, expert, name) => {
      const { experts } = config.moe
      const shape = ofExpert.get(name)
      assert(
        shape && config.layers[layer]?.ffn === 'sparse' && expert >= 0 && expert < experts,
        `layer ${layer} has no tensor ${name} of an expert ${expert}`,
      )
      return { name: names.expert(...placeOf(layer), expert)[name]!, shape }
    },
  }
}

type Ids = Pick<ModelConfig, 'bos' | 'eos'> & { encoder: Encoder }

/**
 * The ids by which an output begins and ends, those forced and those kept out of it, generation_config.json's before config.json's.
 * @param layers of the encoder.
 */
export const readIds = (keys: Keys, generation: Keys, layers: number): Ids => {
  if (!keys.flag('is_encoder_decoder', true))
    throw keys.refuse('is_encoder_decoder', 'but this family is supported as an encoder–decoder alone')
  const vocabulary = keys.count('vocab_size')
  const place = (key: string): Keys => (generation.has(key) ? generation : keys)
  const all = (key: string): number[] => place(key).ids(key) ?? []
  const one = (key: string): number | null => {
    const ids = all(key)
    if (ids.length > 1) throw place(key).refuse(key, 'but only one id is supported')
    if (ids[0] >= vocabulary) throw place(key).refuse(key, `but ids run from 0 to ${vocabulary - 1}`)
    return ids[0] ?? null
  }
  const start = one('decoder_start_token_id')
  if (start === null) throw keys.refuse('decoder_start_token_id', 'but the id that the decoder begins with is needed')
  const bad = place('bad_words_ids').idLists('bad_words_ids')
  if (bad.some((word) => word.length !== 1))
    throw place('bad_words_ids').refuse('bad_words_ids', 'but only words of one token are supported')
  const eos = all('eos_token_id')
  const last = one('forced_eos_token_id')
  // An end is no bad word (transformers' NoBadWordsLogitsProcessor): without it nothing would end.
  const words = bad.flat().filter((id) => !eos.includes(id))
  return {
    bos: all('bos_token_id')[0] ?? null,
    eos,
    encoder: {
      layers,
      start,
      forcedFirst: one('forced_bos_token_id'),
      forcedLast: last === null ? null : { id: last, ends: eos.includes(last) },
      suppressed: [...all('suppress_tokens'), ...words],
      suppressedFirst: all('begin_suppress_tokens'),
    },
  }
}

/** Refuses every value of these switches but the given one, which is the default too. */
export const readFixed = (keys: Keys, switches: Record<string, boolean>): void => {
  for (const [key, value] of Object.entries(switches))
    if (keys.flag(key, value) !== value) throw keys.refuse(key, `but only ${value} is supported in this family`)
  if (keys.has('quantization_config'))
    throw keys.refuse(
      'quantization_config',
      'but this family is read unquantised; use the checkpoint in F32, F16 or BF16',
    )
}

/** A size that both stacks have alike. */
export const readAlike = (keys: Keys, key: string, other: string): number => {
  const size = keys.count(key)
  if (keys.count(other, size) !== size) throw keys.refuse(other, `but only the value of ${key}, ${size}, is supported`)
  return size
}

const hubActivations = { relu: 'relu', gelu: 'gelu', gelu_new: 'gelu_tanh', silu: 'silu', swish: 'silu' } as const
export type HubActivation = keyof typeof hubActivations

/** Activations by transformers' names (its ACT2FN). */
export const activationNames = Object.keys(hubActivations) as HubActivation[]
export const activationOf = (name: HubActivation): ModelConfig['ffn']['activation'] => hubActivations[name]

/** Of a model whose layers are all dense. */
export const noExperts: Moe = {
  experts: 0,
  topK: 0,
  width: 0,
  router: { score: 'softmax', bias: false, groups: null, renormalise: null, scale: 1, capacity: null },
  sharedWidth: 0,
  sharedGate: false,
}

type Layers = ModelConfig['layers']

/** Layers of a stack, sparse where `sparse` says so. */
export const stackLayers = (count: number, sparse: (index: number) => boolean = () => false): Layers =>
  Array.from({ length: count }, (_, index) => ({ ffn: sparse(index) ? 'sparse' : 'dense', window: null }))
