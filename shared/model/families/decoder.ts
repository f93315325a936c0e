import type { GqaAttention, MlaAttention, ModelConfig, Moe, Router, WeightMap } from '../config.ts'
import type { Keys } from './keys.ts'
import type { Holds } from './names.ts'
import { type RopeSettings, readRope } from './rope.ts'

/**
 * Maps a checkpoint's config.json and generation_config.json to canonical form.
 * @throws MeshError FAILED_PRECONDITION naming the key of a value that is missing, wrong or not supported.
 */
export type Family = (keys: Keys, generation: Keys, holds: Holds) => { config: ModelConfig; weights: WeightMap }

type Basics = Pick<
  ModelConfig,
  'family' | 'vocabulary' | 'hidden' | 'norm' | 'embedding' | 'ffn' | 'encoder' | 'tied' | 'head' | 'bos' | 'eos'
>

/** What every family's config.json says in the same words. eps is the family's default for rms_norm_eps. */
export const readBasics = (keys: Keys, generation: Keys, eps: number): Basics => {
  readQuantization(keys)
  keys.word('hidden_act', ['silu', 'swish'], 'silu')
  if (keys.flag('is_encoder_decoder', false))
    throw keys.refuse('is_encoder_decoder', 'but this family is supported as a decoder alone')
  return {
    family: keys.word('model_type', familyNames, familyNames[0]),
    vocabulary: keys.count('vocab_size'),
    hidden: keys.count('hidden_size'),
    norm: { kind: 'rms', placement: 'pre', eps: keys.number('rms_norm_eps', eps) },
    embedding: { scale: 1, norm: false },
    ffn: { activation: 'silu', gated: true, bias: false },
    encoder: null,
    tied: keys.flag('tie_word_embeddings', false),
    head: { scale: 1, bias: false },
    bos: (generation.ids('bos_token_id') ?? keys.ids('bos_token_id'))?.[0] ?? null,
    eos: generation.ids('eos_token_id') ?? keys.ids('eos_token_id') ?? [],
  }
}

export const familyNames = [
  'bart',
  'deepseek',
  'deepseek_v2',
  'deepseek_v3',
  'kimi_k2',
  'marian',
  'mixtral',
  'nllb-moe',
  'nllb_moe',
  'olmoe',
  'qwen2_moe',
  'qwen3_moe',
  'switch_transformers',
  't5',
] as const

/** Only DeepSeek-V3's fp8 is read; its weights are used dequantised, activations stay as they are. */
const readQuantization = (keys: Keys): void => {
  const settings = keys.object('quantization_config')
  if (!settings) return
  settings.word('quant_method', ['fp8'], 'fp8')
  settings.word('fmt', ['e4m3'], 'e4m3')
  const block = settings.wholes('weight_block_size')
  if (block.length !== 2 || block.some((n) => n !== 128))
    throw settings.refuse('weight_block_size', 'but only [128,128] is supported; use the checkpoint in BF16')
}

type GqaQuirks = Pick<GqaAttention, 'bias' | 'qkNorm' | 'clip'> & { theta: number }

/** Grouped-query attention with half-split rope. theta is the family's default for rope_theta. */
export const readGqa = (
  keys: Keys,
  { theta, ...quirks }: GqaQuirks,
): Pick<RopeSettings, 'positions' | 'contextLength'> & { attention: GqaAttention } => {
  const heads = keys.count('num_attention_heads')
  const kvHeads = keys.count('num_key_value_heads', heads)
  if (heads % kvHeads !== 0)
    throw keys.refuse('num_key_value_heads', `which does not divide num_attention_heads ${heads}`)
  if (!keys.has('head_dim') && keys.count('hidden_size') % heads !== 0)
    throw keys.refuse('num_attention_heads', 'which does not divide hidden_size, and head_dim is missing')
  const headDim = keys.count('head_dim', keys.count('hidden_size') / heads)
  const { positions, contextLength } = readRope(keys, { dim: headDim, layout: 'half', theta })
  return {
    positions,
    contextLength,
    attention: { kind: 'gqa', heads, kvHeads, headDim, scale: headDim ** -0.5, ...quirks },
  }
}

/**
 * The eps of MLA's inner norms: DeepSeek's RMSNorm class default, whatever rms_norm_eps says (modeling_deepseek.py).
 */
const MLA_EPS = 1e-6

export const readMla = (
  keys: Keys,
  layout: 'half' | 'interleaved',
): Pick<RopeSettings, 'positions' | 'contextLength'> & { attention: MlaAttention } => {
  const nope = keys.count('qk_nope_head_dim')
  const rope = keys.count('qk_rope_head_dim')
  const { positions, contextLength, attentionScale } = readRope(keys, { dim: rope, layout, theta: 10_000 })
  const attention: MlaAttention = {
    kind: 'mla',
    heads: keys.count('num_attention_heads'),
    qLora: keys.has('q_lora_rank') ? keys.count('q_lora_rank') : null,
    kvLora: keys.count('kv_lora_rank'),
    nope,
    rope,
    valueDim: keys.count('v_head_dim'),
    scale: (nope + rope) ** -0.5 * attentionScale,
    bias: keys.flag('attention_bias', false),
    eps: MLA_EPS,
  }
  return { positions, contextLength, attention }
}

/** All four projections carry a bias or none does, as attention_bias says. */
export const readBias = (keys: Keys): GqaAttention['bias'] => {
  const bias = keys.flag('attention_bias', false)
  return { q: bias, k: bias, v: bias, o: bias }
}

/** The routed experts; expertsKey and widthKey are the family's words for how many and how wide. */
export const readExperts = (
  keys: Keys,
  expertsKey: string,
  widthKey: string,
): Pick<Moe, 'experts' | 'topK' | 'width'> => {
  const experts = keys.count(expertsKey)
  const topK = keys.count('num_experts_per_tok')
  if (topK > experts) throw keys.refuse('num_experts_per_tok', `more than ${expertsKey} ${experts}`)
  return { experts, topK, width: keys.count(widthKey) }
}

/** Group-limited selection, where n_group asks for more than one group. */
export const readGroups = (
  keys: Keys,
  score: 'max' | 'top2',
  { experts, topK }: Pick<Moe, 'experts' | 'topK'>,
): Router['groups'] => {
  const count = keys.count('n_group', 1)
  const keep = keys.count('topk_group', 1)
  if (count === 1) return null
  if (experts % count !== 0) throw keys.refuse('n_group', `which does not divide n_routed_experts ${experts}`)
  if (score === 'top2' && experts / count < 2)
    throw keys.refuse('n_group', 'but a group needs two experts to be scored by its two best')
  if (keep > count) throw keys.refuse('topk_group', `more than n_group ${count}`)
  if (topK > keep * (experts / count))
    throw keys.refuse('topk_group', `too few groups to choose num_experts_per_tok ${topK} experts from`)
  return { count, keep, score }
}

/** DeepSeek's rule: layers from first_k_dense_replace on whose index moe_layer_freq divides are sparse. */
export const readDeepseekLayers = (keys: Keys): ModelConfig['layers'] => {
  const first = keys.whole('first_k_dense_replace', 0)
  const every = keys.count('moe_layer_freq', 1)
  return Array.from({ length: keys.count('num_hidden_layers') }, (_, layer) => ({
    ffn: layer >= first && layer % every === 0 ? 'sparse' : 'dense',
    window: null,
  }))
}

/** Qwen's rule: every decoder_sparse_step-th layer is sparse, but for those in mlp_only_layers. */
export const readQwenLayers = (keys: Keys, window: (layer: number) => number | null): ModelConfig['layers'] => {
  const every = keys.count('decoder_sparse_step', 1)
  const dense = keys.wholes('mlp_only_layers')
  return Array.from({ length: keys.count('num_hidden_layers') }, (_, layer) => ({
    ffn: !dense.includes(layer) && (layer + 1) % every === 0 ? 'sparse' : 'dense',
    window: window(layer),
  }))
}

/**
 * Qwen's windows: none without use_sliding_window; else the layers that layer_types names, or, where it is missing,
 * those that `implied` picks.
 */
export const readQwenWindows = (
  keys: Keys,
  implied: (layer: number) => boolean,
): ((layer: number) => number | null) => {
  const types = keys.words('layer_types')
  const odd = types?.find((type) => type !== 'full_attention' && type !== 'sliding_attention')
  if (odd !== undefined)
    throw keys.refuse('layer_types', `but only "full_attention" and "sliding_attention" are supported`)
  if (types && types.length !== keys.count('num_hidden_layers'))
    throw keys.refuse('layer_types', 'not one for each of num_hidden_layers')
  if (!keys.flag('use_sliding_window', false)) {
    if (types?.includes('sliding_attention')) throw keys.refuse('layer_types', 'although use_sliding_window is false')
    return () => null
  }
  if (!keys.has('sliding_window')) return () => null
  const window = keys.count('sliding_window')
  return (layer) => ((types ? types[layer] === 'sliding_attention' : implied(layer)) ? window : null)
}
