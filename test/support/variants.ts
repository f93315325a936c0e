import type { WriteOptions } from './checkpoint.ts'
import { tinyConfigs } from './configs.ts'
import type { LocalOptions } from './local.ts'

/** A checkpoint to write, unlike the goldens, and how to run it. */
export type Variant = {
  name: string
  config: Record<string, unknown>
  options?: WriteOptions
  /** Prompt lengths. */
  prompts?: readonly number[]
  local?: LocalOptions
}

const { deepseek, deepseek_v2, deepseek_v3, kimi_k2, mixtral, olmoe, qwen2_moe, qwen3_moe } = tinyConfigs
const yarn = { type: 'yarn', factor: 8, original_max_position_embeddings: 16, beta_fast: 32, beta_slow: 1 }
const llama3 = {
  rope_type: 'llama3',
  factor: 4,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 16,
}
/** Every model below turns its rope fast enough that 16 positions are a context to exceed. */
const fast = { rope_theta: 50 }

/** Every family several times, made as the goldens are, but of other shapes, formats and settings. */
export const variants: readonly Variant[] = [
  {
    name: 'deepseek, one key head for six, every second layer sparse, renormalised, bf16',
    config: {
      ...deepseek,
      ...{ num_attention_heads: 6, num_key_value_heads: 1, head_dim: 10, num_hidden_layers: 5 },
      ...{ moe_layer_freq: 2, first_k_dense_replace: 1, norm_topk_prob: true, n_shared_experts: 3 },
    },
    options: { dtype: 'BF16' },
  },
  {
    name: 'deepseek, biases, tied, fused experts, linear rope, f16',
    config: {
      ...deepseek,
      ...{ attention_bias: true, tie_word_embeddings: true, num_hidden_layers: 2, first_k_dense_replace: 0 },
      ...{ rope_scaling: { type: 'linear', factor: 2.5 }, num_experts_per_tok: 6 },
    },
    options: { dtype: 'F16', layout: 'fused' },
  },
  {
    name: 'deepseek, no shared experts, one expert per token, dynamic rope within and beyond its context',
    config: {
      ...{ ...deepseek, ...fast, n_shared_experts: null, num_experts_per_tok: 1, max_position_embeddings: 24 },
      rope_scaling: { type: 'dynamic', factor: 4 },
    },
    prompts: [5, 18, 24, 40],
  },
  {
    name: 'deepseek_v2, greedy, tied, bf16',
    config: { ...deepseek_v2, num_hidden_layers: 2, tie_word_embeddings: true, routed_scaling_factor: 1.5 },
    options: { dtype: 'BF16' },
  },
  {
    name: 'deepseek_v2, limited groups, q-lora, biases, three files',
    config: {
      ...{ ...deepseek_v2, q_lora_rank: 20, attention_bias: true, n_routed_experts: 12, num_attention_heads: 3 },
      ...{ topk_method: 'group_limited_greedy', n_group: 4, topk_group: 2, routed_scaling_factor: 4 },
      ...{ moe_layer_freq: 2, num_hidden_layers: 4, qk_rope_head_dim: 6, v_head_dim: 20 },
    },
    options: { shards: 3 },
  },
  {
    name: 'deepseek_v2, yarn with unequal mscales, beyond its context',
    config: { ...deepseek_v2, ...fast, rope_scaling: { ...yarn, mscale: 1, mscale_all_dim: 0.7 } },
    prompts: [7, 40],
  },
  {
    name: 'deepseek_v2, dynamic rope, beyond its context',
    config: {
      ...{ ...deepseek_v2, ...fast, n_shared_experts: null, max_position_embeddings: 20 },
      rope_scaling: { type: 'dynamic', factor: 3 },
    },
    prompts: [6, 39],
  },
  {
    name: 'deepseek_v3, fp8 with partial blocks, two files',
    config: { ...deepseek_v3, hidden_size: 160, intermediate_size: 192, kv_lora_rank: 36, num_hidden_layers: 2 },
    options: { dtype: 'F8_E4M3', shards: 2 },
  },
  {
    name: 'deepseek_v3, fp8, fused experts',
    config: { ...deepseek_v3, hidden_size: 144, moe_intermediate_size: 72, num_hidden_layers: 2, v_head_dim: 24 },
    options: { dtype: 'F8_E4M3', layout: 'fused' },
  },
  {
    name: 'deepseek_v3, half-split rope, no q-lora, one of two groups, weights as they are, f16',
    config: {
      ...{ ...deepseek_v3, rope_interleave: false, q_lora_rank: null, n_group: 2, topk_group: 1 },
      ...{ norm_topk_prob: false, routed_scaling_factor: 1.25, first_k_dense_replace: 0 },
    },
    options: { dtype: 'F16' },
  },
  {
    name: 'deepseek_v3, three of eight groups, transformers 5’s yarn, fused experts, biases',
    config: {
      ...{ ...deepseek_v3, n_routed_experts: 16, n_group: 8, topk_group: 3, num_experts_per_tok: 5 },
      ...{ attention_bias: true, n_shared_experts: 2, tie_word_embeddings: true },
      rope_parameters: { ...yarn, type: undefined, rope_type: 'yarn', rope_theta: 60, mscale: 1, mscale_all_dim: 1 },
    },
    options: { layout: 'fused' },
    prompts: [9, 45],
  },
  {
    name: 'kimi_k2, yarn with one step, beyond its context, bf16',
    config: { ...kimi_k2, rope_scaling: { ...yarn, beta_fast: 1, mscale: 1, mscale_all_dim: 1 } },
    options: { dtype: 'BF16' },
    prompts: [8, 50],
  },
  {
    name: 'mixtral, heads wider than hidden, sliding window, in chunks of five, bf16',
    config: { ...mixtral, head_dim: 20, sliding_window: 7, num_hidden_layers: 4, num_experts_per_tok: 2 },
    options: { dtype: 'BF16' },
    prompts: [3, 7, 8, 33],
    local: { chunk: 5 },
  },
  {
    name: 'mixtral, no window, llama3 rope, tied, fused experts under transformers 5’s names',
    config: { ...mixtral, ...fast, sliding_window: null, rope_scaling: llama3, tie_word_embeddings: true },
    options: { layout: 'fused', shards: 2 },
    prompts: [5, 45],
  },
  {
    name: 'mixtral, a window of one, every expert chosen, plain multi-head attention',
    config: { ...mixtral, sliding_window: 1, num_key_value_heads: 4, num_local_experts: 3, num_hidden_layers: 1 },
  },
  {
    name: 'qwen2_moe, windows in even layers below the fourth, renormalised, f16',
    config: {
      ...{ ...qwen2_moe, num_hidden_layers: 6, mlp_only_layers: [3], norm_topk_prob: true },
      ...{ use_sliding_window: true, sliding_window: 5, max_window_layers: 4 },
    },
    options: { dtype: 'F16' },
    prompts: [4, 31],
  },
  {
    name: 'qwen2_moe, every second layer sparse, no biases, yarn, layer_types',
    config: {
      ...{ ...qwen2_moe, ...fast, num_hidden_layers: 4, decoder_sparse_step: 2, mlp_only_layers: [], qkv_bias: false },
      ...{ use_sliding_window: true, sliding_window: 6, rope_scaling: { ...yarn, factor: 3 } },
      layer_types: ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'],
    },
    prompts: [5, 44],
    local: { chunk: 11 },
  },
  {
    name: 'qwen2_moe, tied, fused experts, three key heads of nine',
    config: {
      ...{ ...qwen2_moe, num_attention_heads: 9, num_key_value_heads: 3, head_dim: 8, tie_word_embeddings: true },
      shared_expert_intermediate_size: 33,
    },
    options: { layout: 'fused' },
  },
  {
    name: 'qwen3_moe, biases, weights as they are, windows everywhere, bf16',
    config: {
      ...{ ...qwen3_moe, attention_bias: true, norm_topk_prob: false, head_dim: 10, decoder_sparse_step: 2 },
      ...{ num_hidden_layers: 4, use_sliding_window: true, sliding_window: 9, max_window_layers: 1 },
    },
    options: { dtype: 'BF16', shards: 4 },
    prompts: [6, 35],
  },
  {
    name: 'qwen3_moe, transformers 5’s llama3, one key head, fused experts',
    config: {
      ...{ ...qwen3_moe, num_key_value_heads: 1, num_experts: 5, mlp_only_layers: [0] },
      rope_parameters: { ...llama3, rope_theta: 70 },
    },
    options: { layout: 'fused' },
    prompts: [9, 48],
  },
  {
    name: 'qwen3_moe, dynamic rope within and beyond its context, tied',
    config: {
      ...{ ...qwen3_moe, ...fast, tie_word_embeddings: true, max_position_embeddings: 22 },
      rope_scaling: { rope_type: 'dynamic', factor: 3 },
    },
    prompts: [4, 30],
    local: { chunk: 8 },
  },
  {
    name: 'olmoe, clipped hard, renormalised, f16',
    config: { ...olmoe, clip_qkv: 0.4, norm_topk_prob: true, num_hidden_layers: 4 },
    options: { dtype: 'F16' },
  },
  {
    name: 'olmoe, not clipped, biases, transformers 5’s linear rope, fused experts',
    config: {
      ...{ ...olmoe, clip_qkv: null, attention_bias: true, num_key_value_heads: 4, tie_word_embeddings: true },
      rope_parameters: { rope_type: 'linear', factor: 4, rope_theta: 100 },
    },
    options: { layout: 'fused' },
  },
  {
    name: 'olmoe, yarn without truncation and a given attention factor, three files',
    config: {
      ...{ ...olmoe, ...fast, num_attention_heads: 8 },
      rope_scaling: { ...yarn, truncate: false, attention_factor: 1.2 },
    },
    options: { shards: 3 },
    prompts: [8, 36],
  },
]
