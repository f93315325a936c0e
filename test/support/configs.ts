/**
 * A small config.json of each family that keeps its quirks alive, and no two sizes equal that a transposed matrix would
 * hide behind.
 */
const gqa = {
  vocab_size: 128,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_experts_per_tok: 3,
  hidden_act: 'silu',
  max_position_embeddings: 256,
  bos_token_id: 0,
  eos_token_id: 1,
}

const mla = {
  ...gqa,
  num_key_value_heads: 4,
  moe_intermediate_size: 40,
  kv_lora_rank: 32,
  qk_nope_head_dim: 16,
  qk_rope_head_dim: 8,
  v_head_dim: 12,
  n_routed_experts: 8,
  first_k_dense_replace: 1,
}

export const tinyConfigs = {
  deepseek: {
    ...gqa,
    model_type: 'deepseek',
    moe_intermediate_size: 40,
    n_shared_experts: 2,
    n_routed_experts: 8,
    first_k_dense_replace: 1,
  },
  deepseek_v2: { ...mla, model_type: 'deepseek_v2', q_lora_rank: null, n_shared_experts: 2 },
  deepseek_v3: {
    ...mla,
    model_type: 'deepseek_v3',
    q_lora_rank: 24,
    n_shared_experts: 1,
    n_group: 4,
    topk_group: 2,
    num_nextn_predict_layers: 1,
  },
  kimi_k2: {
    ...mla,
    model_type: 'kimi_k2',
    q_lora_rank: 24,
    n_shared_experts: 1,
    n_group: 1,
    topk_group: 1,
    rope_theta: 50_000,
  },
  mixtral: { ...gqa, model_type: 'mixtral', num_local_experts: 8, sliding_window: 4, rope_theta: 1e6 },
  olmoe: { ...gqa, model_type: 'olmoe', num_experts: 8, clip_qkv: 1.5 },
  qwen2_moe: {
    ...gqa,
    model_type: 'qwen2_moe',
    moe_intermediate_size: 40,
    shared_expert_intermediate_size: 48,
    num_experts: 8,
    mlp_only_layers: [1],
  },
  qwen3_moe: {
    ...gqa,
    model_type: 'qwen3_moe',
    head_dim: 24,
    moe_intermediate_size: 40,
    num_experts: 8,
    norm_topk_prob: true,
  },
} satisfies Record<string, Record<string, unknown>>
export type FamilyName = keyof typeof tinyConfigs

const stacks = {
  vocab_size: 128,
  d_model: 64,
  encoder_layers: 2,
  decoder_layers: 3,
  encoder_attention_heads: 4,
  decoder_attention_heads: 4,
  encoder_ffn_dim: 96,
  decoder_ffn_dim: 96,
  max_position_embeddings: 64,
  is_encoder_decoder: true,
}

const relative = {
  vocab_size: 128,
  d_model: 64,
  d_kv: 12,
  d_ff: 96,
  num_layers: 2,
  num_decoder_layers: 3,
  num_heads: 4,
  relative_attention_num_buckets: 8,
  relative_attention_max_distance: 20,
  is_encoder_decoder: true,
  pad_token_id: 0,
  eos_token_id: 1,
  decoder_start_token_id: 0,
}

/** The same for encoder–decoders: stacks of unlike depth, heads that do not add up to the row, capacities that drop. */
export const seq2seqConfigs = {
  bart: {
    ...stacks,
    model_type: 'bart',
    bos_token_id: 0,
    pad_token_id: 1,
    eos_token_id: 2,
    decoder_start_token_id: 2,
    forced_bos_token_id: 0,
    forced_eos_token_id: 2,
  },
  marian: {
    ...stacks,
    model_type: 'marian',
    decoder_vocab_size: 128,
    activation_function: 'swish',
    scale_embedding: true,
    pad_token_id: 127,
    eos_token_id: 0,
    forced_eos_token_id: 0,
    decoder_start_token_id: 127,
    bad_words_ids: [[127]],
  },
  'nllb-moe': {
    ...stacks,
    model_type: 'nllb-moe',
    encoder_layers: 4,
    decoder_layers: 4,
    encoder_sparse_step: 2,
    decoder_sparse_step: 4,
    num_experts: 8,
    moe_eval_capacity_token_fraction: 0.4,
    bos_token_id: 0,
    pad_token_id: 1,
    eos_token_id: 2,
    decoder_start_token_id: 2,
    forced_bos_token_id: 7,
  },
  switch_transformers: {
    ...relative,
    model_type: 'switch_transformers',
    num_layers: 4,
    num_sparse_encoder_layers: 2,
    num_sparse_decoder_layers: 3,
    num_experts: 8,
    expert_capacity: 2,
  },
  t5: { ...relative, model_type: 't5' },
  't5 1.1': { ...relative, model_type: 't5', feed_forward_proj: 'gated-gelu', tie_word_embeddings: false },
} satisfies Record<string, Record<string, unknown>>
export type Seq2seqName = keyof typeof seq2seqConfigs

/** DeepSeek-V3's sizes, as far as they concern experts. */
export const v3Sizes = {
  ...tinyConfigs.deepseek_v3,
  hidden_size: 7168,
  moe_intermediate_size: 2048,
  num_hidden_layers: 61,
  n_routed_experts: 256,
  num_experts_per_tok: 8,
  first_k_dense_replace: 3,
  n_group: 8,
  topk_group: 4,
}
