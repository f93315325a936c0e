import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { Capacity, Router } from '../../../shared/model/config.ts'
import { openModel } from '../../../shared/model/open.ts'
import { linear } from '../../reference/linear.ts'
import { loadReference, type Reference } from '../../reference/model.ts'
import { affinities, route } from '../../reference/router.ts'
import { writeCheckpoint } from '../../support/checkpoint.ts'
import { seq2seqConfigs } from '../../support/configs.ts'
import { torchUniform } from '../../support/mersenne.ts'

const fixtures = join(import.meta.dirname, '..', '..', 'data', 'hf_published_fixtures.json')
const published = JSON.parse(readFileSync(fixtures, 'utf8'))

const plain: Router = { score: 'softmax', bias: false, groups: null, renormalise: null, scale: 1, capacity: null }
const top1 = (rows: number): Router => ({ ...plain, capacity: { limit: { rows }, dropFirst: false } })
const top2 = (limit: Capacity['limit'], dropFirst = true): Router => ({
  ...plain,
  renormalise: { epsilon: 0 },
  capacity: { limit, dropFirst },
})

/** Weights [T,E] of rows that make up a sequence. */
const dense = (scores: number[][], topK: number, router: Router, whole = true): number[][] => {
  const experts = scores[0].length
  const { ids, weights } = route(Float32Array.from(scores.flat()), { experts, topK, router }, undefined, whole)
  return scores.map((_, row) => {
    const out = new Array<number>(experts).fill(0)
    for (let k = row * topK; k < (row + 1) * topK; k++) out[ids[k]] = Number(weights[k].toFixed(4))
    return out
  })
}

describe('capacity', () => {
  const eager = [
    [0.75, 0.25],
    [0.625, 0.375],
    [0.25, 0.75],
    [0.875, 0.125],
    [0.5, 0.5],
  ]
  it('of one choice drops the rows that come when an expert has its number', () => {
    expect(dense(eager, 1, top1(2))).toEqual([
      [0.75, 0],
      [0.625, 0],
      [0, 0.75],
      [0, 0],
      [0, 0],
    ])
    expect(dense(eager, 1, top1(3))).toEqual([
      [0.75, 0],
      [0.625, 0],
      [0, 0.75],
      [0.875, 0],
      [0, 0],
    ])
    expect(dense(eager, 1, top1(4))).toEqual(dense(eager, 1, plain))
  })

  it('never drops what is routed alone, as a decoder’s rows are', () => {
    expect(dense(eager, 1, top1(1), false)).toEqual(dense(eager, 1, plain))
    expect(dense(eager, 2, top2({ share: 0.1 }), false)).toEqual(dense(eager, 2, { ...top2({ rows: 9 }) }))
  })

  const two = [
    [0.5, 0.25, 0.25],
    [0.25, 0.5, 0.25],
    [0.125, 0.625, 0.25],
  ]
  it('of two choices serves every first one before any second', () => {
    // First choices 0, 1, 1; second choices 1, 0, 2. Expert 1 has its two rows when the first row's second choice comes.
    expect(dense(two, 2, top2({ rows: 2 }))).toEqual([
      [1, 0, 0],
      [0.3333, 0.6667, 0],
      [0, 0.7143, 0.2857],
    ])
    expect(dense(two, 2, top2({ rows: 1 }))).toEqual([
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ])
  })
  it('is a share of the sequence’s rows, rounded up', () => {
    expect(dense(two, 2, top2({ share: 0.5 }))).toEqual(dense(two, 2, top2({ rows: 2 })))
    expect(dense(two, 2, top2({ share: 0.33 }))).toEqual(dense(two, 2, top2({ rows: 1 })))
    expect(dense(two, 2, top2({ share: 1 }))).toEqual(dense(two, 2, { ...plain, renormalise: { epsilon: 0 } }))
  })
  it('drops after renormalising where the family does', () => {
    const [first] = dense(two, 2, top2({ rows: 2 }, false))
    expect(first).toEqual([0.6667, 0, 0])
  })
})

describe('numbers that transformers publishes', () => {
  it('switch: the auxiliary loss over what the router chooses', () => {
    const { rows, classifier, auxiliaryLoss } = published.switch
    const weight = Float32Array.from([0, 1].flatMap((expert) => classifier.map((row: number[]) => row[expert])))
    const losses = rows.flatMap((sequence: number[][]) => {
      const scores = affinities(linear(Float32Array.from(sequence.flat()), weight, 4), 2, 'softmax')
      const { ids } = route(scores, { experts: 2, topK: 1, router: top1(4) }, undefined, true)
      return [0, 1].map((expert) => {
        const share = ids.filter((id) => id === expert).length / ids.length
        const probability = scores.filter((_, i) => i % 2 === expert).reduce((a, b) => a + b) / ids.length
        return share * probability
      })
    })
    const mean = losses.reduce((a: number, b: number) => a + b) / losses.length
    expect(Math.abs(mean * 4 - auxiliaryLoss)).toBeLessThan(1e-5)
  })

  it('nllb: the weights of two experts a row', () => {
    const uniform = torchUniform(0)
    const logits = Float32Array.from({ length: 160 }, uniform)
    const noise = torchUniform(0)
    for (let skipped = 0; skipped < 128; skipped++) noise()
    const noisy = logits.map((logit) => logit - Math.log(-Math.log(noise())))
    const scores = affinities(noisy, 4, 'softmax')
    const rows = Array.from({ length: 40 }, (_, row) => [...scores.subarray(row * 4, row * 4 + 4)])
    const weights = dense(rows, 2, top2({ rows: 40 }))
    for (const [row, expected] of published.nllb.all.weights.entries())
      for (const [expert, weight] of expected.entries())
        expect(Math.abs(weights[row][expert] - weight)).toBeLessThan(2e-4)
  })

  it('nllb: what fairseq’s experts make of the rows', () => {
    const layer = (uniform: () => number, outs: number, width: number) => {
      const bound = 1 / Math.sqrt(width)
      const draw = (length: number) => Float32Array.from({ length }, () => uniform() * 2 * bound - bound)
      return { weight: draw(outs * width), bias: draw(outs) }
    }
    const uniform = torchUniform(0)
    const rows = Float32Array.from({ length: 40 * 32 }, uniform)
    const router = layer(uniform, 4, 32)
    const again = torchUniform(0)
    const experts = Array.from({ length: 4 }, () => layer(again, 32, 32))
    for (const [sequence, expected] of published.nllb.fairseq.means.entries()) {
      const x = rows.slice(sequence * 20 * 32, (sequence * 20 + 1) * 32)
      const scores = affinities(linear(x, router.weight, 32, router.bias), 4, 'softmax')
      const scaled = { ...top2({ rows: 4 }), scale: 0.8 }
      const { ids, weights } = route(scores, { experts: 4, topK: 2, router: scaled }, undefined, true)
      const outs = [...ids].map((id) => linear(x, experts[id].weight, 32, experts[id].bias))
      for (const [i, mean] of expected.entries()) {
        const value = outs.reduce((sum, y, k) => sum + weights[k] * y[i], 0)
        expect(Math.abs(value / 20 - mean)).toBeLessThan(1e-6)
      }
    }
  })
})

/** A random model of the family, read with these values of its keys. */
const loaded = async (family: keyof typeof seq2seqConfigs, more: Record<string, unknown>): Promise<Reference> => {
  const dir = await mkdtemp(join(tmpdir(), 'capacity-'))
  onTestFinished(() => rm(dir, { recursive: true }))
  await writeCheckpoint(dir, { ...seq2seqConfigs[family], ...more }, { seed: 5 })
  const model = await openModel(dir)
  onTestFinished(model.close)
  return loadReference(model)
}

describe('a whole model whose experts are small', () => {
  const source = Array.from({ length: 24 }, (_, i) => (i * 37 + 11) % 128)
  const output = [5, 99, 3, 3, 3, 41, 17, 3, 88]
  const first = (reference: Reference) => reference.step([reference.config.encoder!.start], reference.encode(source))[0]

  it.each([
    ['switch_transformers', { expert_capacity: 2 }, { expert_capacity: 24 }],
    ['nllb-moe', { moe_eval_capacity_token_fraction: 0.1 }, { moe_eval_capacity_token_fraction: 1 }],
  ] as const)('%s drops rows of the source and none of the output', async (family, small, large) => {
    const [tight, roomy] = [await loaded(family, small), await loaded(family, large)]
    expect(first(tight)).not.toEqual(first(roomy))
    const { start } = tight.config.encoder!
    const together = tight.step([start, ...output], tight.encode(source))
    const past = tight.encode(source)
    expect([start, ...output].map((id) => tight.step([id], past)[0])).toEqual(together)
  })
})
