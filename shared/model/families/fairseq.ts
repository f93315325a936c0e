import type { ExpertTensor, LayerTensor, ModelConfig, ModelTensor } from '../config.ts'
import type { Keys } from './keys.ts'
import type { Holds } from './names.ts'
import { activationNames, activationOf, type HubActivation, readAlike, readIds, type StackNames } from './stacks.ts'

/** What marian, bart and nllb-moe share: keys and names that transformers took over from fairseq. */
type Basics = Omit<ModelConfig, 'norm' | 'positions' | 'embedding' | 'moe' | 'layers' | 'head'>

export const readFairseq = (
  keys: Keys,
  generation: Keys,
  { family, activation }: { family: string; activation: HubActivation },
): Basics => {
  const hidden = keys.count('d_model')
  const heads = readAlike(keys, 'encoder_attention_heads', 'decoder_attention_heads')
  if (hidden % heads !== 0) throw keys.refuse('encoder_attention_heads', `which does not divide d_model ${hidden}`)
  const headDim = hidden / heads
  const bias = { q: true, k: true, v: true, o: true }
  const scale = headDim ** -0.5
  return {
    family,
    vocabulary: keys.count('vocab_size'),
    hidden,
    contextLength: keys.count('max_position_embeddings'),
    attention: { kind: 'gqa', heads, kvHeads: heads, headDim, scale, bias, qkNorm: 'none', clip: null },
    ffn: {
      activation: activationOf(keys.word('activation_function', activationNames, activation)),
      gated: false,
      bias: true,
    },
    denseWidth: readAlike(keys, 'encoder_ffn_dim', 'decoder_ffn_dim'),
    tied: keys.flag('tie_word_embeddings', true),
    ...readIds(keys, generation, keys.count('encoder_layers')),
  }
}

/** √d where scale_embedding asks for it. */
export const readEmbeddingScale = (keys: Keys, absent: boolean): number =>
  keys.flag('scale_embedding', absent) ? Math.sqrt(keys.count('d_model')) : 1

/** Sines and cosines take half of a row each. */
export const readHalf = (keys: Keys): number => {
  const hidden = keys.count('d_model')
  if (hidden % 2 !== 0) throw keys.refuse('d_model', 'but sinusoidal positions come in pairs: it must be even')
  return hidden / 2
}

/** What a family calls the parts of a layer. */
type Words = { cross: string; ffn: string; ffnNorm: string }

export const fairseqNames = (holds: Holds, { cross, ffn, ffnNorm }: Words): StackNames => {
  // Tied tables are stored once, under whichever name came first.
  const tables = ['model.shared.weight', 'model.encoder.embed_tokens.weight', 'model.decoder.embed_tokens.weight']
  const model: Partial<Record<ModelTensor, string>> = {
    embed: [...tables, 'lm_head.weight'].find(holds) ?? tables[0],
    head: 'lm_head.weight',
    'head.bias': 'final_logits_bias',
  }
  for (const [stack, prefix] of [
    ['encoder', 'encoder.'],
    ['decoder', ''],
  ] as const) {
    model[`${prefix}positions`] = `model.${stack}.embed_positions.weight`
    model[`${prefix}embed.norm`] = `model.${stack}.layernorm_embedding.weight`
    model[`${prefix}embed.norm.bias`] = `model.${stack}.layernorm_embedding.bias`
    model[`${prefix}norm`] = `model.${stack}.layer_norm.weight`
    model[`${prefix}norm.bias`] = `model.${stack}.layer_norm.bias`
  }
  const pair = <Name extends string>(name: Name, prefix: string): Record<Name | `${Name}.bias`, string> =>
    ({ [name]: `${prefix}.weight`, [`${name}.bias`]: `${prefix}.bias` }) as Record<Name | `${Name}.bias`, string>
  return {
    model,
    layer: (stack, index) => {
      const prefix = `model.${stack}.layers.${index}.`
      const names: Partial<Record<LayerTensor, string>> = {
        ...pair('attention.norm', `${prefix}self_attn_layer_norm`),
        ...pair('cross.norm', `${prefix}${cross}_layer_norm`),
        ...pair('ffn.norm', `${prefix}${ffnNorm}`),
        ...pair('shared.up', `${prefix}${ffn}fc1`),
        ...pair('shared.down', `${prefix}${ffn}fc2`),
        router: `${prefix}${ffn}router.classifier.weight`,
      }
      for (const name of ['q', 'k', 'v', 'o'] as const) {
        const hub = `${name === 'o' ? 'out' : name}_proj`
        Object.assign(names, pair(`attention.${name}`, `${prefix}self_attn.${hub}`))
        Object.assign(names, pair(`cross.${name}`, `${prefix}${cross}.${hub}`))
      }
      return names
    },
    expert: (stack, index, expert): Partial<Record<ExpertTensor, string>> => {
      const prefix = `model.${stack}.layers.${index}.${ffn}experts.expert_${expert}`
      return { ...pair('up', `${prefix}.fc1`), ...pair('down', `${prefix}.fc2`) }
    },
  }
}
