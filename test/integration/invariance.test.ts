import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import type { GenerationRequest } from '../../services/gateway/sequence.ts'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { writeCheckpoint } from '../support/checkpoint.ts'
import { describeGolden, golden } from '../support/goldens.ts'
import { type Generated, greedy, type LocalOptions, openLocal, requestOf } from '../support/local.ts'
import { seeded } from '../support/random.ts'

/** The bits of a sequence do not depend on how, where and beside whom it is computed. */
const samplings: Record<string, Partial<GenerationRequest>> = {
  greedy: {},
  sampled: { sampling: { ...greedy, temperature: 1, topP: 0.9, seed: 7n } },
}

const chunks = [1, 2, 16, 17, 64, 512]
const outputTokens = 24

const promptOf = (seed: number, length: number, vocabulary: number): number[] => {
  const next = seeded(seed)
  return Array.from({ length }, () => next(vocabulary))
}

/** What must not change: ids and the digests of every position's logits. */
const bits = ({ ids, digests }: Generated) => ({ ids, digests })

const suite = (dir: () => string, precision: Precision, vocabulary: number, blockBytes: number): void => {
  const prompt = promptOf(1, 150, vocabulary)
  const open = (options: LocalOptions = {}) => openLocal(dir(), { precision, ...options })
  const alone = async (options: LocalOptions, more: Partial<GenerationRequest>): Promise<ReturnType<typeof bits>> => {
    const local = await open(options)
    const generated = await local.generate(requestOf(prompt, outputTokens, more))
    await local.close()
    return bits(generated)
  }

  for (const [kind, more] of Object.entries(samplings)) {
    it(`${kind}: any chunk gives the same bits`, async () => {
      const whole = await alone({}, more)
      expect(new Set(whole.digests).size).toBe(outputTokens)
      for (const chunk of chunks) expect(await alone({ chunk }, more)).toEqual(whole)
    })

    it(`${kind}: beside eight others, with two threads, with a prefix hit`, async () => {
      const whole = await alone({}, more)
      const local = await open({ threads: 2, chunk: 32, maxBatchTokens: 64 })
      const others = Array.from({ length: 8 }, (_, i) =>
        local.generate(requestOf(promptOf(i + 2, 10 + 17 * i, vocabulary), outputTokens, more)),
      )
      expect(bits(await local.generate(requestOf(prompt, outputTokens, more)))).toEqual(whole)
      await Promise.all(others)
      const again = await local.generate(requestOf(prompt, outputTokens, more))
      expect(again.events[0]).toMatchObject({ kind: 'started', cachedTokens: expect.any(Number) })
      expect(again.events[0].kind === 'started' && again.events[0].cachedTokens).toBeGreaterThan(128)
      expect(bits(again)).toEqual(whole)
      await local.close()
    })

    it(`${kind}: preempted and recomputed`, async () => {
      const tokens = 140
      const roomy = await open()
      const expected = []
      for (let i = 0; i < 3; i++)
        expected.push(bits(await roomy.generate(requestOf(promptOf(i + 20, 110, vocabulary), tokens, more))))
      await roomy.close()
      // Three sequences of one block each that all grow into a second: five blocks are one too few.
      const tight = await open({ kvMemoryBytes: Math.ceil(5.9 * blockBytes) })
      const runs = await Promise.all(
        [0, 1, 2].map((i) => tight.generate(requestOf(promptOf(i + 20, 110, vocabulary), tokens, more))),
      )
      expect(tight.counts().preempted).toBeGreaterThan(0)
      expect(runs.map(bits)).toEqual(expected)
      await tight.close()
    })
  }
}

for (const precision of PRECISIONS) {
  describeGolden('deepseek', () =>
    describe(precision, () => suite(() => golden('deepseek').dir, precision, 256, 4 * 2 * 64 * 128 * 4)),
  )
  describeGolden('deepseek_v3_yarn', () =>
    describe(precision, () => suite(() => golden('deepseek_v3_yarn').dir, precision, 256, 4 * 40 * 128 * 4)),
  )
}

/** Random models at the head sizes of the families, over prompts that need one, two and three cache blocks. */
const heads: Record<string, Record<string, unknown>> = {
  'head 64': { model_type: 'mixtral', num_attention_heads: 4, num_key_value_heads: 2, head_dim: 64 },
  'head 80': { model_type: 'mixtral', num_attention_heads: 2, num_key_value_heads: 2, head_dim: 80 },
  'head 128': { model_type: 'mixtral', num_attention_heads: 4, num_key_value_heads: 1, head_dim: 128 },
  'head 256': { model_type: 'mixtral', num_attention_heads: 2, num_key_value_heads: 1, head_dim: 256 },
  'latent 512 + 64': {
    model_type: 'deepseek_v2',
    num_attention_heads: 2,
    kv_lora_rank: 512,
    q_lora_rank: null,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    v_head_dim: 128,
    topk_method: 'greedy',
    n_shared_experts: 1,
    moe_intermediate_size: 32,
    n_routed_experts: 4,
    first_k_dense_replace: 1,
    norm_topk_prob: false,
    routed_scaling_factor: 1,
    scoring_func: 'softmax',
    n_group: 1,
    topk_group: 1,
  },
}

const common = {
  vocab_size: 64,
  hidden_size: 96,
  intermediate_size: 80,
  num_hidden_layers: 2,
  num_local_experts: 4,
  num_experts_per_tok: 2,
  max_position_embeddings: 1024,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  hidden_act: 'silu',
}

describe('at real head sizes', () => {
  const made: string[] = []
  afterAll(async () => {
    for (const dir of made) await rm(dir, { recursive: true })
  })
  for (const [name, axes] of Object.entries(heads)) {
    it(`${name}: decode, any chunk and any cache capacity give the same bits`, async () => {
      const dir = await mkdtemp(join(tmpdir(), 'expertmesh-heads-'))
      made.push(dir)
      await writeCheckpoint(dir, { ...common, ...axes }, { seed: 3, dtype: 'F32', layout: 'experts' })
      const prompt = promptOf(9, 300, common.vocab_size)
      const digests = new Map<number, string>()
      for (const chunk of [512, 1, 17, 64]) {
        const local = await openLocal(dir, { chunk, precision: 'fp32' })
        for (const length of [100, 250, 300]) {
          const generated = await local.generate(
            requestOf(prompt.slice(0, length), 8, { promptLogprobs: true, logprobs: 0 }),
          )
          const known = digests.get(length) ?? generated.digests.join()
          expect(generated.digests.join()).toBe(known)
          digests.set(length, known)
        }
        await local.close()
      }
    })
  }
})
