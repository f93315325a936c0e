import { describe, expect, it } from 'vitest'
import type { GqaAttention, MlaAttention, ModelConfig } from '../../../shared/model/config.ts'
import { readKeys } from '../../../shared/model/families/keys.ts'
import { describeModel } from '../../../shared/model/open.ts'
import { ropeOf } from '../../../shared/model/rope.ts'
import { type FamilyName, tinyConfigs } from '../../support/configs.ts'

type Raw = Record<string, unknown>

const describeTiny = (
  family: FamilyName,
  more: Raw = {},
  generation: Raw = {},
  holds: (name: string) => boolean = () => false,
) =>
  describeModel(
    readKeys({ ...tinyConfigs[family], ...more }, 'config.json'),
    readKeys(generation, 'generation_config.json'),
    holds,
  )
const configOf = (family: FamilyName, more: Raw = {}, generation: Raw = {}): ModelConfig =>
  describeTiny(family, more, generation).config
const mlaOf = (family: FamilyName, more: Raw = {}) => configOf(family, more).attention as MlaAttention
const gqaOf = (family: FamilyName, more: Raw = {}) => configOf(family, more).attention as GqaAttention

const names = Object.keys(tinyConfigs) as FamilyName[]

describe('attention', () => {
  it('has the scale of a whole head', () => {
    expect(gqaOf('qwen3_moe').scale).toBeCloseTo(1 / Math.sqrt(24), 15)
    expect(gqaOf('mixtral').scale).toBe(1 / 4)
    expect(mlaOf('deepseek_v3').scale).toBeCloseTo(1 / Math.sqrt(24), 15)
  })
  it('takes head_dim from the config, else from hidden_size', () => {
    expect(gqaOf('qwen3_moe').headDim).toBe(24)
    expect(gqaOf('deepseek').headDim).toBe(16)
    expect(gqaOf('deepseek', { num_key_value_heads: null }).kvHeads).toBe(4)
  })
  it('has the biases, norms and clip of its family', () => {
    const none = { q: false, k: false, v: false, o: false }
    const all = { q: true, k: true, v: true, o: true }
    expect(gqaOf('qwen2_moe').bias).toEqual({ ...all, o: false })
    expect(gqaOf('qwen2_moe', { qkv_bias: false }).bias).toEqual(none)
    expect(gqaOf('mixtral', { attention_bias: true }).bias).toEqual(none)
    for (const family of ['deepseek', 'olmoe', 'qwen3_moe'] as const) {
      expect(gqaOf(family).bias).toEqual(none)
      expect(gqaOf(family, { attention_bias: true }).bias).toEqual(all)
    }
    expect(mlaOf('deepseek_v2', { attention_bias: true }).bias).toBe(true)
    expect(
      ['deepseek', 'mixtral', 'qwen2_moe', 'qwen3_moe', 'olmoe'].map((family) => gqaOf(family as FamilyName).qkNorm),
    ).toEqual(['none', 'none', 'none', 'head', 'full'])
    expect(gqaOf('olmoe').clip).toBe(1.5)
    expect(gqaOf('olmoe', { clip_qkv: null }).clip).toBeNull()
  })
  it('keeps the inner norms of MLA at 1e-6 whatever rms_norm_eps is', () => {
    const config = configOf('deepseek_v3', { rms_norm_eps: 1e-5 })
    expect(config.norm.eps).toBe(1e-5)
    expect((config.attention as MlaAttention).eps).toBe(1e-6)
  })
  it('rotates interleaved pairs in MLA, unless rope_interleave is false', () => {
    expect(configOf('deepseek_v2').positions).toMatchObject({ layout: 'interleaved', dim: 8 })
    expect(configOf('kimi_k2').positions).toMatchObject({ layout: 'interleaved', theta: 50_000 })
    expect(ropeOf(configOf('deepseek_v3', { rope_interleave: false })).layout).toBe('half')
    expect(configOf('mixtral').positions).toMatchObject({ layout: 'half', dim: 16, theta: 1e6 })
  })
})

describe('rope scaling', () => {
  const scaled = (rope_scaling: unknown, family: FamilyName = 'mixtral') => configOf(family, { rope_scaling })
  it('null, "default" and none are no scaling', () => {
    for (const scaling of [null, {}, { rope_type: 'default' }, { type: 'default' }]) {
      expect(ropeOf(scaled(scaling)).scaling).toEqual({ kind: 'none' })
      expect(scaled(scaling).contextLength).toBe(256)
    }
  })
  it('linear and dynamic reach factor times as far', () => {
    expect(scaled({ type: 'linear', factor: 2.5 })).toMatchObject({
      positions: { scaling: { kind: 'linear', factor: 2.5 } },
      contextLength: 640,
    })
    expect(scaled({ rope_type: 'dynamic', factor: 4 })).toMatchObject({
      positions: { scaling: { kind: 'dynamic', factor: 4, maxPositions: 256 } },
      contextLength: 1024,
    })
  })
  it('llama3 keeps max_position_embeddings', () => {
    const llama3 = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    }
    expect(scaled(llama3)).toMatchObject({
      positions: { scaling: { kind: 'llama3', factor: 8, lowFactor: 1, highFactor: 4, originalPositions: 64 } },
      contextLength: 256,
    })
  })
  it('yarn fills in its defaults', () => {
    expect(scaled({ type: 'yarn', factor: 4 })).toMatchObject({
      positions: {
        scaling: {
          kind: 'yarn',
          factor: 4,
          originalPositions: 256,
          betaFast: 32,
          betaSlow: 1,
          truncate: true,
          attentionFactor: 0.1 * Math.log(4) + 1,
        },
      },
      contextLength: 1024,
    })
    const given = {
      type: 'yarn',
      factor: 2,
      original_max_position_embeddings: 64,
      attention_factor: 1.5,
      truncate: false,
      beta_fast: 16,
      beta_slow: 2,
    }
    expect(scaled(given)).toMatchObject({
      positions: {
        scaling: { originalPositions: 64, betaFast: 16, betaSlow: 2, truncate: false, attentionFactor: 1.5 },
      },
      contextLength: 256,
    })
  })
  it('yarn without a factor takes max_position_embeddings over the original length', () => {
    expect(ropeOf(scaled({ type: 'yarn', original_max_position_embeddings: 64 })).scaling).toMatchObject({
      factor: 4,
    })
  })
  it('transformers 5’s rope_parameters hold theta and scaling together', () => {
    const rope_parameters = { rope_type: 'linear', factor: 2, rope_theta: 5e5, partial_rotary_factor: 1 }
    expect(configOf('mixtral', { rope_theta: null, rope_parameters }).positions).toMatchObject({
      theta: 5e5,
      scaling: { kind: 'linear', factor: 2 },
    })
    expect(configOf('deepseek', { rope_parameters: { rope_type: 'default', rope_theta: 77 } }).positions).toMatchObject(
      {
        theta: 77,
        scaling: { kind: 'none' },
      },
    )
  })

  const deepseek = { type: 'yarn', factor: 40, beta_fast: 32, beta_slow: 1, original_max_position_embeddings: 4096 }
  it.each([
    ['deepseek_v2', 707 / 1000, 1.5896],
    ['deepseek_v3', 1, 1.8739],
    ['kimi_k2', 1, 1.8739],
  ] as const)('%s multiplies the attention scale by mscale², and leaves cos and sin alone', (family, mscale, times) => {
    const config = configOf(family, {
      max_position_embeddings: 163_840,
      rope_scaling: { ...deepseek, mscale, mscale_all_dim: mscale },
    })
    expect((config.attention as MlaAttention).scale * Math.sqrt(24)).toBeCloseTo(times, 3)
    expect(ropeOf(config).scaling).toMatchObject({ attentionFactor: 1 })
    expect(config.contextLength).toBe(163_840)
  })
  it('without mscale_all_dim the attention scale stays, and cos and sin take the temperature', () => {
    const config = configOf('deepseek_v3', { rope_scaling: deepseek })
    expect((config.attention as MlaAttention).scale).toBeCloseTo(1 / Math.sqrt(24), 15)
    expect(ropeOf(config).scaling).toMatchObject({ attentionFactor: 0.1 * Math.log(40) + 1 })
  })
})

describe('experts', () => {
  it('are routed as their family routes', () => {
    const routers = Object.fromEntries(names.map((name) => [name, configOf(name).moe.router]))
    const softmax = { score: 'softmax', bias: false, groups: null, renormalise: null, scale: 1, capacity: null }
    expect(routers).toEqual({
      deepseek: softmax,
      deepseek_v2: softmax,
      deepseek_v3: {
        score: 'sigmoid',
        bias: true,
        groups: { count: 4, keep: 2, score: 'top2' },
        renormalise: { epsilon: 1e-20 },
        scale: 2.5,
        capacity: null,
      },
      kimi_k2: {
        score: 'sigmoid',
        bias: true,
        groups: null,
        renormalise: { epsilon: 1e-20 },
        scale: 2.5,
        capacity: null,
      },
      mixtral: { ...softmax, renormalise: { epsilon: 0 } },
      olmoe: softmax,
      qwen2_moe: softmax,
      qwen3_moe: { ...softmax, renormalise: { epsilon: 0 } },
    })
  })
  it('deepseek_v2 limits groups by their best expert, and scales', () => {
    const more = { topk_method: 'group_limited_greedy', n_group: 4, topk_group: 3, routed_scaling_factor: 16 }
    expect(configOf('deepseek_v2', more).moe.router).toMatchObject({
      groups: { count: 4, keep: 3, score: 'max' },
      scale: 16,
    })
    expect(configOf('deepseek_v2', { ...more, topk_method: 'greedy' }).moe.router.groups).toBeNull()
  })
  it('norm_topk_prob renormalises, in deepseek only where there is more than one weight', () => {
    for (const family of ['olmoe', 'qwen2_moe'] as const)
      expect(configOf(family, { norm_topk_prob: true }).moe.router.renormalise).toEqual({ epsilon: 0 })
    expect(configOf('deepseek', { norm_topk_prob: true }).moe.router.renormalise).toEqual({ epsilon: 1e-20 })
    expect(configOf('deepseek', { norm_topk_prob: true, num_experts_per_tok: 1 }).moe.router.renormalise).toBeNull()
    expect(configOf('deepseek_v3', { norm_topk_prob: false }).moe.router.renormalise).toBeNull()
  })
  it('shared ones are one FFN as wide as all of them', () => {
    expect(configOf('deepseek').moe).toMatchObject({ width: 40, sharedWidth: 80, sharedGate: false })
    expect(configOf('deepseek_v2', { n_shared_experts: null }).moe.sharedWidth).toBe(0)
    expect(configOf('qwen2_moe').moe).toMatchObject({ width: 40, sharedWidth: 48, sharedGate: true })
    for (const family of ['mixtral', 'olmoe', 'qwen3_moe'] as const) expect(configOf(family).moe.sharedWidth).toBe(0)
    expect(configOf('olmoe').moe.width).toBe(96)
  })
})

describe('layers', () => {
  const kinds = (config: ModelConfig): string => config.layers.map(({ ffn }) => ffn[0]).join('')
  it('are sparse by the family’s rule', () => {
    expect(kinds(configOf('mixtral'))).toBe('sss')
    expect(kinds(configOf('deepseek'))).toBe('dss')
    expect(kinds(configOf('deepseek_v3', { num_hidden_layers: 7, first_k_dense_replace: 3, moe_layer_freq: 2 }))).toBe(
      'ddddsds',
    )
    expect(kinds(configOf('qwen2_moe', { num_hidden_layers: 6, decoder_sparse_step: 2, mlp_only_layers: [3] }))).toBe(
      'dsddds',
    )
    expect(kinds(configOf('qwen3_moe', { mlp_only_layers: null }))).toBe('sss')
  })

  const windows = (family: FamilyName, more: Raw) =>
    configOf(family, { num_hidden_layers: 5, sliding_window: 8, ...more }).layers.map(({ window }) => window)
  it('slide where the family says so', () => {
    expect(windows('mixtral', {})).toEqual([8, 8, 8, 8, 8])
    expect(windows('mixtral', { sliding_window: null })).toEqual([null, null, null, null, null])
    expect(windows('qwen2_moe', {})).toEqual([null, null, null, null, null])
    expect(windows('qwen2_moe', { use_sliding_window: true, max_window_layers: 3 })).toEqual([8, null, 8, null, null])
    expect(windows('qwen3_moe', { max_window_layers: 3 })).toEqual([null, null, null, null, null])
    expect(windows('qwen3_moe', { use_sliding_window: true, max_window_layers: 3 })).toEqual([8, 8, 8, 8, 8])
    const layer_types = ['full_attention', 'full_attention', 'sliding_attention', 'full_attention', 'sliding_attention']
    expect(windows('qwen2_moe', { use_sliding_window: true, layer_types })).toEqual([null, null, 8, null, 8])
  })
})

describe('ids', () => {
  it('generation_config.json goes before config.json', () => {
    expect(configOf('mixtral')).toMatchObject({ bos: 0, eos: [1] })
    expect(configOf('mixtral', {}, { eos_token_id: [5, 6], bos_token_id: 4 })).toMatchObject({ bos: 4, eos: [5, 6] })
    expect(configOf('mixtral', { eos_token_id: [7, 8] }).eos).toEqual([7, 8])
    expect(configOf('mixtral', { eos_token_id: null, bos_token_id: null })).toMatchObject({ bos: null, eos: [] })
  })
})

describe('tensor names', () => {
  it('a tied head is the embedding', () => {
    const { weights } = describeTiny('mixtral', { tie_word_embeddings: true })
    expect(weights.model('head')).toEqual(weights.model('embed'))
    expect(describeTiny('mixtral').weights.model('head').name).toBe('lm_head.weight')
  })
  it('fused experts are rows: gate above up, expert by expert', () => {
    const { weights } = describeTiny('deepseek', {}, {}, (name) => name === 'model.layers.2.mlp.experts.gate_up_proj')
    const fused = { name: 'model.layers.2.mlp.experts.gate_up_proj', shape: [8, 80, 64] }
    expect(weights.expert(2, 0, 'gate')).toEqual({ ...fused, rows: { begin: 0, end: 40 } })
    expect(weights.expert(2, 3, 'up')).toEqual({ ...fused, rows: { begin: 280, end: 320 } })
    const down = { name: 'model.layers.2.mlp.experts.down_proj', shape: [8, 64, 40] }
    expect(weights.expert(2, 3, 'down')).toEqual({ ...down, rows: { begin: 192, end: 256 } })
    expect(weights.expert(1, 3, 'down').name).toBe('model.layers.1.mlp.experts.3.down_proj.weight')
  })
  it('mixtral’s block has the hub’s name or transformers 5’s', () => {
    expect(describeTiny('mixtral').weights.layer(0, 'router').name).toBe('model.layers.0.block_sparse_moe.gate.weight')
    expect(describeTiny('mixtral').weights.expert(0, 1, 'up').name).toBe(
      'model.layers.0.block_sparse_moe.experts.1.w3.weight',
    )
    const block = (name: string) => name === 'model.layers.0.block_sparse_moe.experts.gate_up_proj'
    expect(describeTiny('mixtral', {}, {}, block).weights.expert(0, 1, 'up').name).toBe(
      'model.layers.0.block_sparse_moe.experts.gate_up_proj',
    )
    const newer = (name: string) => name.startsWith('model.layers.0.mlp.') && !name.includes('w1')
    expect(describeTiny('mixtral', {}, {}, newer).weights.layer(0, 'router').name).toBe(
      'model.layers.0.mlp.gate.weight',
    )
    expect(describeTiny('mixtral', {}, {}, newer).weights.expert(0, 1, 'up').name).toBe(
      'model.layers.0.mlp.experts.gate_up_proj',
    )
  })
  it('what the config does not call for is a broken invariant', () => {
    const { weights } = describeTiny('deepseek')
    expect(() => weights.layer(0, 'router')).toThrow(/layer 0 has no tensor router/)
    expect(() => weights.expert(0, 0, 'gate')).toThrow(/layer 0 has no expert/)
    expect(() => weights.expert(1, 8, 'gate')).toThrow(/no expert 8/)
    expect(() => weights.layer(3, 'ffn.norm')).toThrow(/layer 3/)
  })
})
