import type { LayerTensor, ModelConfig, ModelTensor } from '../config.ts'
import type { Family } from './decoder.ts'
import type { Keys } from './keys.ts'
import type { Holds } from './names.ts'
import {
  activationNames,
  activationOf,
  noExperts,
  readFixed,
  readIds,
  type StackNames,
  stackLayers,
  stackWeights,
} from './stacks.ts'

/** T5 (arXiv:1910.10683) and T5 1.1, with its gated GELU and a head of its own (transformers' modeling_t5.py). */
export const t5: Family = (keys, generation, holds) => {
  readFixed(keys, {})
  const plain = activationNames
  const gated = plain.map((name) => `gated-${name}` as const)
  const form = keys.word('feed_forward_proj', [...plain, ...gated], 'relu')
  const activation = plain.find((name) => form === name || form === `gated-${name}`)!
  const config = {
    ...readT5(keys, generation),
    ffn: {
      // T5 1.1 says gelu where it means the approximation.
      activation: form === 'gated-gelu' ? ('gelu_tanh' as const) : activationOf(activation),
      gated: form.startsWith('gated-'),
      bias: false,
    },
    moe: noExperts,
    layers: [...stackLayers(keys.count('num_layers')), ...stackLayers(readDecoderLayers(keys))],
  }
  return { config, weights: stackWeights(config, t5Names(holds, 'DenseReluDense', config.ffn.gated)) }
}

export const readDecoderLayers = (keys: Keys): number => keys.count('num_decoder_layers', keys.count('num_layers'))

/**
 * Relative positions reach any distance, and transformers sets them no limit. This one bounds what the encoder, whose source enters
 * whole, must hold.
 */
const CONTEXT = 2048

/** What t5 and switch_transformers share. */
export const readT5 = (keys: Keys, generation: Keys): Omit<ModelConfig, 'ffn' | 'moe' | 'layers'> => {
  const hidden = keys.count('d_model')
  const heads = keys.count('num_heads')
  const buckets = keys.count('relative_attention_num_buckets', 32)
  const maxDistance = keys.count('relative_attention_max_distance', 128)
  // Both ways they are halved, and half of those hold one distance each.
  if (buckets % 4 !== 0) throw keys.refuse('relative_attention_num_buckets', 'but a multiple of 4 is needed')
  if (maxDistance <= buckets / 2)
    throw keys.refuse('relative_attention_max_distance', `but more than half of ${buckets} buckets is needed`)
  const tied = keys.flag('tie_word_embeddings', true)
  return {
    family: keys.word('model_type', ['t5', 'switch_transformers'], 't5'),
    vocabulary: keys.count('vocab_size'),
    hidden,
    contextLength: CONTEXT,
    norm: { kind: 'rms', placement: 'pre', eps: keys.number('layer_norm_epsilon', 1e-6) },
    embedding: { scale: 1, norm: false },
    positions: { kind: 'relative', buckets, maxDistance },
    attention: {
      kind: 'gqa',
      heads,
      kvHeads: heads,
      headDim: keys.count('d_kv', 64),
      scale: 1,
      bias: { q: false, k: false, v: false, o: false },
      qkNorm: 'none',
      clip: null,
    },
    denseWidth: keys.count('d_ff'),
    tied,
    // transformers 5 says by a key of its own what 4 tells by the tied head.
    head: { scale: keys.flag('scale_decoder_outputs', tied) ? hidden ** -0.5 : 1, bias: false },
    ...readIds(keys, generation, keys.count('num_layers')),
  }
}

/** Names of T5's checkpoints; `ffn` is the family's word for the FFN. */
export const t5Names = (holds: Holds, ffn: string, gated: boolean): StackNames => {
  // Tied tables are stored once, under whichever name came first.
  const tables = ['shared.weight', 'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight']
  const bias = 'block.0.layer.0.SelfAttention.relative_attention_bias.weight'
  const model: Partial<Record<ModelTensor, string>> = {
    embed: [...tables, 'lm_head.weight'].find(holds) ?? tables[0],
    head: 'lm_head.weight',
    positions: `decoder.${bias}`,
    'encoder.positions': `encoder.${bias}`,
    norm: 'decoder.final_layer_norm.weight',
    'encoder.norm': 'encoder.final_layer_norm.weight',
  }
  const ffnPrefix = (stack: string, index: number) => `${stack}.block.${index}.layer.${stack === 'encoder' ? 1 : 2}`
  return {
    model,
    layer: (stack, index) => {
      const prefix = `${stack}.block.${index}.layer`
      const last = ffnPrefix(stack, index)
      const names: Partial<Record<LayerTensor, string>> = {
        'attention.norm': `${prefix}.0.layer_norm.weight`,
        'cross.norm': `${prefix}.1.layer_norm.weight`,
        'ffn.norm': `${last}.layer_norm.weight`,
        'shared.gate': `${last}.${ffn}.wi_0.weight`,
        'shared.up': `${last}.${ffn}.${gated ? 'wi_1' : 'wi'}.weight`,
        'shared.down': `${last}.${ffn}.wo.weight`,
        router: `${last}.${ffn}.router.classifier.weight`,
      }
      for (const name of ['q', 'k', 'v', 'o'] as const) {
        names[`attention.${name}`] = `${prefix}.0.SelfAttention.${name}.weight`
        names[`cross.${name}`] = `${prefix}.1.EncDecAttention.${name}.weight`
      }
      return names
    },
    expert: (stack, index, expert) => {
      const prefix = `${ffnPrefix(stack, index)}.${ffn}.experts.expert_${expert}`
      return { up: `${prefix}.wi.weight`, down: `${prefix}.wo.weight` }
    },
  }
}
