import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { openTokenizer } from '../../services/gateway/accept/tokenizer.ts'
import type { Precision } from '../../shared/model/config.ts'
import { openModel } from '../../shared/model/open.ts'
import { openLocal, requestOf } from '../support/local.ts'
import { bytes, type Stored, safetensors, shapesOf } from '../support/safetensors.ts'

const demo = join(import.meta.dirname, '..', '..', 'models', 'demo')
const { heldout } = JSON.parse(readFileSync(join(demo, 'expected.json'), 'utf8'))
const windowTokens = 256

type Score = { nllPerToken: number; choices: number[] }

/** Scores the held-out text as expected.json says: bos + 256-token windows of the encoded file from its second token. */
const score = async (dir: string, precision: Precision): Promise<Score> => {
  const tokenizer = await openTokenizer(demo)
  const ids = tokenizer?.encode(readFileSync(join(demo, heldout.file), 'utf8'), { addSpecialTokens: true }) ?? []
  const local = await openLocal(dir, { precision })
  let nll = 0
  let tokens = 0
  const choices: number[] = []
  for (let begin = 1; begin + windowTokens <= ids.length; begin += windowTokens) {
    const window = [ids[0], ...ids.slice(begin, begin + windowTokens)]
    const { events } = await local.generate(requestOf(window, 1, { promptLogprobs: true, logprobs: 1, digest: false }))
    for (const event of events) {
      if (event.kind !== 'prompt') continue
      for (const token of event.logprobs) {
        if (!token) continue
        nll -= token.logprob
        choices.push(token.top[0].id)
        tokens++
      }
    }
  }
  await local.close()
  expect(tokens).toBe(heldout.tokens)
  return { nllPerToken: nll / tokens, choices }
}

const outlierFactor = 100
/** Every channel whose number leaves this remainder becomes an outlier. */
const every = 29

const isOutlier = (channel: number): boolean => channel % every === 3

/** The demo model with channels that are 100 times larger where they are made and 100 times smaller where they are read. */
const withOutliers = async (dir: string): Promise<void> => {
  const { checkpoint, close } = await openModel(demo)
  const tensors: Record<string, Stored> = {}
  for (const [name, shape] of shapesOf(join(demo, 'model.safetensors'))) {
    const values = await checkpoint.read({ name, shape })
    const columns = shape.at(-1) ?? 0
    const scale = (factor: number, channel: (i: number) => number) => {
      for (let i = 0; i < values.length; i++) if (isOutlier(channel(i))) values[i] *= factor
    }
    const column = (i: number) => i % columns
    const row = (i: number) => Math.floor(i / columns)
    if (name.endsWith('layernorm.weight') || name === 'model.norm.weight') scale(outlierFactor, column)
    if (/(q|k|v|gate|up)_proj\.weight$|mlp\.gate\.weight$|lm_head/.test(name)) scale(1 / outlierFactor, column)
    if (/up_proj\.weight$/.test(name)) scale(outlierFactor, row)
    if (/down_proj\.weight$/.test(name)) scale(1 / outlierFactor, column)
    tensors[name] = { dtype: 'F32', shape, data: bytes(values) }
  }
  await close()
  writeFileSync(join(dir, 'model.safetensors'), safetensors(tensors))
  copyFileSync(join(demo, 'config.json'), join(dir, 'config.json'))
}

describe('on held-out text', () => {
  let reference: Score
  beforeAll(async () => {
    reference = await score(demo, 'fp32')
  })

  it('fp32 scores what the model repository’s own code scores', () => {
    expect(Math.abs(reference.nllPerToken - heldout.nll_per_token)).toBeLessThan(1e-4)
  })

  it.each([
    { precision: 'int8', perplexityMax: 0.01, sameMin: 0.97, outliersMax: 0.02 },
    { precision: 'int4', perplexityMax: 0.018, sameMin: 0.9, outliersMax: 0.02 },
  ] as const)(
    '$precision: perplexity within $perplexityMax, the same top choices, and with compensated outlier channels',
    async ({ precision, perplexityMax, sameMin, outliersMax }) => {
      const close = await score(demo, precision)
      const perplexity = Math.exp(close.nllPerToken - reference.nllPerToken) - 1
      const same = close.choices.filter((id, i) => id === reference.choices[i]).length / close.choices.length
      console.info(
        `${precision}: perplexity ${(perplexity * 100).toFixed(3)} %, same top choice ${(same * 100).toFixed(2)} %`,
      )
      const dir = await mkdtemp(join(tmpdir(), 'expertmesh-outliers-'))
      await withOutliers(dir)
      const exact = await score(dir, 'fp32')
      expect(Math.abs(exact.nllPerToken - reference.nllPerToken)).toBeLessThan(1e-4)
      const outliers = await score(dir, precision)
      const increase = Math.exp(outliers.nllPerToken - reference.nllPerToken) - 1
      console.info(`${precision} with outliers: perplexity ${(increase * 100).toFixed(3)} %`)
      await rm(dir, { recursive: true })
      expect(Math.abs(perplexity)).toBeLessThan(perplexityMax)
      expect(same).toBeGreaterThanOrEqual(sameMin)
      expect(Math.abs(increase)).toBeLessThan(outliersMax)
    },
  )
})
