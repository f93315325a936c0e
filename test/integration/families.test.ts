import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import type { TokenLogprob } from '../../services/gateway/sequence.ts'
import { openModel } from '../../shared/model/open.ts'
import { loadReference, type Reference } from '../reference/model.ts'
import { type WriteOptions, writeCheckpoint } from '../support/checkpoint.ts'
import { tinyConfigs } from '../support/configs.ts'
import { type Local, openLocal, requestOf } from '../support/local.ts'
import { seeded } from '../support/random.ts'
import { variants } from '../support/variants.ts'

const { deepseek, deepseek_v3, mixtral, qwen2_moe } = tinyConfigs

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

/** The oracle over a checkpoint written for it. */
const written = async (config: Record<string, unknown>, options: WriteOptions): Promise<Reference> => {
  const dir = await mkdtemp(join(tmpdir(), 'expertmesh-family-'))
  await writeCheckpoint(dir, config, options)
  const model = await openModel(dir)
  const reference = await loadReference(model)
  await model.close()
  await rm(dir, { recursive: true })
  return reference
}

describe('fused experts in several files', () => {
  it.each([deepseek, deepseek_v3, mixtral, qwen2_moe])(
    'are the single ones of one file ($model_type)',
    async (config) => {
      const fused = await written(config, { seed: 3, layout: 'fused', shards: 3 })
      const single = await written(config, { seed: 3 })
      expect(fused.logits([5, 99, 31])).toEqual(single.logits([5, 99, 31]))
    },
  )
})

describe('a random checkpoint has the oracle’s logits and greedy ids', () => {
  afterAll(() => {
    const { ids, of, whole, prompts, apart } = compared
    console.info(
      `${ids} of ${of} ids, ${whole} of ${prompts} prompts to their end; at most ${apart.toExponential(1)} apart`,
    )
    expect(whole / prompts).toBeGreaterThan(0.85)
    expect(ids / of).toBeGreaterThan(0.9)
  })

  it.each(variants)('$name', async ({ name, config, options, prompts = [1, 2, 23], local: settings }) => {
    const dir = await mkdtemp(join(tmpdir(), 'expertmesh-family-'))
    const seed = variants.findIndex((one) => one.name === name)
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
