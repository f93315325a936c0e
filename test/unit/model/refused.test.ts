import { describe, expect, it } from 'vitest'
import { readKeys } from '../../../shared/model/families/keys.ts'
import { describeModel } from '../../../shared/model/open.ts'
import { type FamilyName, tinyConfigs } from '../../support/configs.ts'

const describeTiny = (family: FamilyName, more: Record<string, unknown>) => () =>
  describeModel(
    readKeys({ ...tinyConfigs[family], ...more }, 'config.json'),
    readKeys({}, 'generation_config.json'),
    () => false,
  )

const yarn = { rope_type: 'yarn', factor: 2 }
const fp8 = { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: [128, 128] }

describe('a config value that is not supported is refused, its key and value named', () => {
  it.each<[FamilyName, Record<string, unknown>, RegExp]>([
    ['mixtral', { model_type: 'gpt_oss' }, /config\.json has model_type "gpt_oss", but only .*"mixtral"/],
    ['mixtral', { model_type: null }, /model_type null/],
    ['mixtral', { hidden_act: 'gelu' }, /hidden_act "gelu", but only "silu"/],
    ['mixtral', { is_encoder_decoder: true }, /is_encoder_decoder true/],
    ['mixtral', { hidden_size: '64' }, /hidden_size "64", but a whole number above 0/],
    ['mixtral', { hidden_size: 0 }, /hidden_size 0/],
    ['mixtral', { hidden_size: undefined }, /hidden_size missing/],
    ['mixtral', { num_hidden_layers: 2.5 }, /num_hidden_layers 2\.5/],
    ['mixtral', { vocab_size: -1 }, /vocab_size -1/],
    ['mixtral', { rms_norm_eps: 'small' }, /rms_norm_eps "small", but a number/],
    ['mixtral', { tie_word_embeddings: 1 }, /tie_word_embeddings 1, but true or false/],
    ['mixtral', { eos_token_id: 'end' }, /eos_token_id "end", but a list of token ids/],
    ['mixtral', { num_experts_per_tok: 9 }, /num_experts_per_tok 9, more than num_local_experts 8/],
    ['mixtral', { num_key_value_heads: 3 }, /num_key_value_heads 3, which does not divide/],
    [
      'mixtral',
      { num_attention_heads: 6, num_key_value_heads: 6 },
      /num_attention_heads 6, which does not divide hidden_size/,
    ],
    ['mixtral', { head_dim: 15 }, /head_dim 15, .*even/],
    ['mixtral', { sliding_window: 0 }, /sliding_window 0/],
    ['mixtral', { partial_rotary_factor: 0.5 }, /partial_rotary_factor 0\.5, but only 1/],
    ['mixtral', { rope_theta: 0 }, /rope_theta 0, but a number above 0/],
    ['mixtral', { max_position_embeddings: null }, /max_position_embeddings null/],
    ['mixtral', { rope_scaling: 'linear' }, /rope_scaling is not a JSON object/],
    [
      'mixtral',
      { rope_scaling: { type: 'longrope' } },
      /rope_scaling has type "longrope", but only "default" or "linear"/,
    ],
    ['mixtral', { rope_scaling: { rope_type: 'su', type: 'linear' } }, /rope_scaling has rope_type "su"/],
    ['mixtral', { rope_scaling: { type: 'linear' } }, /rope_scaling has factor missing/],
    ['mixtral', { rope_scaling: { type: 'linear', factor: 0.5 } }, /factor 0\.5, but a number of at least 1/],
    ['mixtral', { rope_scaling: { type: 'dynamic', factor: 2, alpha: 1000 } }, /alpha 1000/],
    ['mixtral', { rope_scaling: { ...yarn, truncate: 'no' } }, /truncate "no"/],
    ['mixtral', { rope_scaling: { type: 'llama3', factor: 8 } }, /low_freq_factor missing/],
    [
      'mixtral',
      { rope_scaling: { type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4 } },
      /high_freq_factor 4, but it must exceed/,
    ],
    [
      'mixtral',
      { rope_parameters: { rope_type: 'default', partial_rotary_factor: 0.25 } },
      /rope_parameters has partial_rotary_factor 0\.25/,
    ],
    [
      'mixtral',
      { quantization_config: { quant_method: 'gptq', bits: 4 } },
      /quantization_config has quant_method "gptq"/,
    ],
    ['deepseek_v3', { quantization_config: { ...fp8, fmt: 'e5m2' } }, /fmt "e5m2"/],
    ['deepseek_v3', { quantization_config: { ...fp8, weight_block_size: [64, 64] } }, /weight_block_size \[64,64\]/],
    ['deepseek_v3', { quantization_config: { quant_method: 'fp8' } }, /weight_block_size missing/],
    ['deepseek', { scoring_func: 'sigmoid' }, /scoring_func "sigmoid"/],
    ['deepseek', { n_routed_experts: null }, /n_routed_experts null/],
    ['deepseek', { moe_layer_freq: 0 }, /moe_layer_freq 0/],
    ['deepseek_v2', { norm_topk_prob: true }, /norm_topk_prob true.*deepseek_v2/],
    ['deepseek_v2', { topk_method: 'noaux_tc' }, /topk_method "noaux_tc"/],
    ['deepseek_v2', { scoring_func: 'sigmoid' }, /scoring_func "sigmoid"/],
    ['deepseek_v2', { qk_rope_head_dim: 7 }, /qk_rope_head_dim 7, .*even/],
    ['deepseek_v3', { topk_method: 'greedy' }, /topk_method "greedy"/],
    ['deepseek_v3', { scoring_func: 'softmax' }, /scoring_func "softmax"/],
    ['deepseek_v3', { n_group: 3 }, /n_group 3, which does not divide/],
    ['deepseek_v3', { n_group: 8 }, /n_group 8, .*two experts/],
    ['deepseek_v3', { topk_group: 5 }, /topk_group 5, more than n_group 4/],
    ['deepseek_v3', { topk_group: 1 }, /topk_group 1, too few groups/],
    ['olmoe', { clip_qkv: -1 }, /clip_qkv -1/],
    ['qwen2_moe', { mlp_only_layers: [-1] }, /mlp_only_layers \[-1\], but a list of whole numbers/],
    [
      'qwen2_moe',
      { layer_types: ['chunked_attention', 'full_attention', 'full_attention'] },
      /layer_types .*but only "full_attention"/,
    ],
    ['qwen2_moe', { layer_types: ['full_attention'] }, /layer_types .*not one for each of num_hidden_layers/],
    [
      'qwen3_moe',
      { layer_types: ['sliding_attention', 'full_attention', 'full_attention'], sliding_window: 4 },
      /layer_types .*although use_sliding_window is false/,
    ],
  ])('%s with %j', (family, more, message) => {
    expect(describeTiny(family, more)).toThrow(message)
    expect(describeTiny(family, more)).toThrow(expect.objectContaining({ name: 'MeshError', code: 9 }))
  })
})

it('what changes nothing is let pass', () => {
  const more = {
    pretraining_tp: 4,
    attention_dropout: 0.1,
    router_aux_loss_coef: 1,
    quantization_config: null,
    partial_rotary_factor: 1,
  }
  for (const family of Object.keys(tinyConfigs) as FamilyName[]) expect(describeTiny(family, more)).not.toThrow()
  expect(describeTiny('deepseek_v3', { quantization_config: { ...fp8, modules_to_not_convert: [] } })).not.toThrow()
})
