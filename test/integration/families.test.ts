import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import type { TokenLogprob } from '../../services/gateway/sequence.ts'
import { openModel } from '../../shared/model/open.ts'
import { loadReference, type Reference } from '../reference/model.ts'
import { type WriteOptions, writeCheckpoint } from '../support/checkpoint.ts'
import { tinyConfigs } from '../support/configs.ts'
import { type Local, type LocalOptions, openLocal, requestOf } from '../support/local.ts'
import { seeded } from '../support/random.ts'

type Case = {
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

const cases: readonly Case[] = [
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

const GENERATED = 12
/** Closer than this, fp32 in another order may choose otherwise. */
const TIE = 1e-3
const TOLERANCE = 2e-4

const compared = { ids: 0, of: 0, whole: 0, prompts: 0, apart: 0 }

const logSoftmax = (logits: Float32Array): Float64Array => {
  const top = logits.reduce((a, b) => Math.max(a, b))
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - top), 0)
  return Float64Array.from(logits, (logit) => logit - top - Math.log(sum))
}

/** The oracle's greedy ids up to where its two best logits all but tie, and the logits that chose the first. */
const oracle = (reference: Reference, prompt: readonly number[]) => {
  const past = reference.begin(prompt.length)
  const prefill = reference.step(prompt, past)
  const ids: number[] = []
  for (let logits = prefill.at(-1)!; ids.length < GENERATED; ) {
    const [best, second] = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b)
    if (logits[best] - logits[second] < TIE) break
    ids.push(best)
    logits = reference.step([best], past)[0]
  }
  return { ids, prefill }
}

const expectLogits = (token: TokenLogprob | null | undefined, logits: Float32Array): void => {
  const expected = logSoftmax(logits)
  expect(token?.top).toHaveLength(expected.length)
  for (const { id, logprob } of token?.top ?? []) {
    const apart = Math.abs(logprob - expected[id])
    compared.apart = Math.max(compared.apart, apart)
    if (!(apart < TOLERANCE)) expect(apart, `logit of token ${id}`).toBeLessThan(TOLERANCE)
  }
}

const expectPrompt = async (reference: Reference, local: Local, prompt: readonly number[]): Promise<void> => {
  const { ids, prefill } = oracle(reference, prompt)
  const V = reference.config.vocabulary
  const { events, ids: generated } = await local.generate(
    requestOf(prompt, GENERATED, { logprobs: V, promptLogprobs: true }),
  )
  const positions = events.flatMap((event) => (event.kind === 'prompt' ? event.logprobs : []))
  const first = events.find((event) => event.kind === 'token')
  expect(positions).toHaveLength(prompt.length)
  for (const [p, logits] of prefill.entries())
    expectLogits(p + 1 < prompt.length ? positions[p + 1] : first?.kind === 'token' ? first.logprob : null, logits)
  expect(generated).toHaveLength(GENERATED)
  expect(generated.slice(0, ids.length)).toEqual(ids)
  compared.prompts++
  compared.of += GENERATED
  compared.ids += ids.length
  if (ids.length === GENERATED) compared.whole++
}

describe('a random checkpoint has the oracle’s logits and greedy ids', () => {
  afterAll(() => {
    const { ids, of, whole, prompts, apart } = compared
    console.info(
      `${ids} of ${of} ids, ${whole} of ${prompts} prompts to their end; at most ${apart.toExponential(1)} apart`,
    )
    expect(whole / prompts).toBeGreaterThan(0.85)
    expect(ids / of).toBeGreaterThan(0.9)
  })

  it.each(cases)('$name', async ({ name, config, options, prompts = [1, 2, 23], local: settings }) => {
    const dir = await mkdtemp(join(tmpdir(), 'expertmesh-family-'))
    const seed = cases.findIndex((one) => one.name === name)
    await writeCheckpoint(dir, config, { seed, ...options })
    const model = await openModel(dir)
    const reference = await loadReference(model)
    await model.close()
    const local = await openLocal(dir, settings)
    try {
      const next = seeded(seed)
      for (const length of prompts)
        await expectPrompt(
          reference,
          local,
          Array.from({ length }, () => next(reference.config.vocabulary)),
        )
    } finally {
      await local.close()
      await rm(dir, { recursive: true })
    }
  })
})
