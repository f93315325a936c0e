import { describe, expect, it } from 'vitest'
import type { ModelConfig } from '../../../shared/model/config.ts'
import { add, dot } from '../../reference/linear.ts'
import { loadReference, type Reference } from '../../reference/model.ts'
import { normals, randomModel } from '../../support/model.ts'

/**
 * Where the norm stands, measured on one model, the same random weights pre-norm and post-norm, at its initialisation.
 *
 * Pre-norm, x + f(norm(x)), has a path on which every layer's input reaches the top as it is: whatever the branches do, the mean
 * diagonal of ∂top/∂layer stays 1. Post-norm, norm(x + f(x)), divides that path by √(1 + |f|²/|x|²) twice a layer, so it fades
 * geometrically with depth (arXiv:2002.04745 §3.3). The whole gradient's size tells the two apart much less here, since what the
 * branches carry makes up for what the path loses; so that is not asserted.
 */
const LAYERS = 24
const ROWS = 6
const HIDDEN = 32
const SEEDS = [1, 2, 3]

const configOf = (placement: ModelConfig['norm']['placement']): ModelConfig => ({
  family: 'placed',
  vocabulary: 64,
  hidden: HIDDEN,
  contextLength: 64,
  norm: { kind: 'layer', placement, eps: 1e-5 },
  embedding: { scale: 1, norm: false },
  positions: { kind: 'sinusoidal', first: 0, divisor: HIDDEN / 2 },
  attention: {
    kind: 'gqa',
    heads: 4,
    kvHeads: 4,
    headDim: 8,
    scale: 8 ** -0.5,
    bias: { q: true, k: true, v: true, o: true },
    qkNorm: 'none',
    clip: null,
  },
  ffn: { activation: 'relu', gated: false, bias: true },
  denseWidth: 4 * HIDDEN,
  moe: {
    experts: 0,
    topK: 0,
    width: 0,
    router: { score: 'softmax', bias: false, groups: null, renormalise: null, scale: 1, capacity: null },
    sharedWidth: 0,
    sharedGate: false,
  },
  encoder: null,
  layers: Array.from({ length: LAYERS }, () => ({ ffn: 'dense', window: null })),
  tied: true,
  head: { scale: 1, bias: false },
  bos: null,
  eos: [],
})

const inner = (a: Float32Array, b: Float32Array): number => dot(a, 0, b, 0, a.length)
const size = (x: Float32Array): number => Math.sqrt(inner(x, x) / x.length)
const cosine = (a: Float32Array, b: Float32Array): number => inner(a, b) / Math.sqrt(inner(a, a) * inner(b, b))

/** Norms as a new model has them; matrices keep `gain` of what they multiply. */
const opened = (placement: ModelConfig['norm']['placement'], gain: number, seed: number): Promise<Reference> =>
  loadReference(
    randomModel(configOf(placement), seed, (name, values) => {
      if (name.endsWith('norm')) values.fill(1)
      else if (name.endsWith('.bias')) values.fill(0)
      else for (const i of values.keys()) values[i] *= name === 'embed' ? Math.sqrt(HIDDEN) : gain
    }),
  )

/** The rows that layers begin…end−1 make of h. */
const through = (reference: Reference, h: Float32Array, begin: number, end: number): Float32Array => {
  let rows = h
  for (let layer = begin; layer < end; layer++) {
    const { h: sum, x } = reference.attend(layer, rows, reference.begin(ROWS))
    rows = reference.settle(layer, add(sum, reference.shared(layer, x)!))
  }
  return rows
}

const STEP = 3e-3
const DIRECTIONS = 8

/** The mean diagonal of ∂top/∂(rows h before layer `begin`), by finite differences along random directions (Hutchinson 1989). */
const identityShare = (reference: Reference, h: Float32Array, begin: number): number => {
  let sum = 0
  for (let k = 0; k < DIRECTIONS; k++) {
    const v = normals(h.length, 1000 + k)
    const top = (step: number) =>
      through(
        reference,
        h.map((value, i) => value + step * v[i]),
        begin,
        LAYERS,
      )
    const [ahead, behind] = [top(STEP), top(-STEP)]
    sum +=
      inner(
        ahead.map((value, i) => value - behind[i]),
        v,
      ) /
      (2 * STEP) /
      inner(v, v)
  }
  return sum / DIRECTIONS
}

const DEPTHS = [1, 6, 12, 24]

const measureModels = (placement: ModelConfig['norm']['placement'], gain: number) =>
  Promise.all(
    SEEDS.map(async (seed) => {
      const reference = await opened(placement, gain, seed)
      const rows = [reference.embed([3, 60, 17, 5, 33, 9])]
      for (let layer = 0; layer < LAYERS; layer++) rows.push(through(reference, rows[layer], layer, layer + 1))
      return {
        shares: DEPTHS.map((depth) => identityShare(reference, rows[LAYERS - depth], LAYERS - depth)),
        sizes: DEPTHS.map((depth) => size(rows[depth])),
        kept: cosine(rows[0], rows[LAYERS]),
      }
    }),
  )

const show = (values: readonly number[]): string => values.map((value) => value.toFixed(2)).join(' ')

type Measured = Awaited<ReturnType<typeof measureModels>>
const known = new Map<string, Promise<Measured>>()
const measure = (placement: ModelConfig['norm']['placement'], gain: number): Promise<Measured> => {
  const id = `${placement} ${gain}`
  const found = known.get(id) ?? measureModels(placement, gain)
  known.set(id, found)
  return found
}
const log = (name: string, models: Measured): void => {
  for (const { shares, sizes, kept } of models)
    console.info(`${name}: gradient's identity share ${show(shares)}, size ${show(sizes)}, cosine kept ${show([kept])}`)
}

describe.each([0.5, 1])('through 24 layers whose matrices have gain %d', (gain) => {
  it('pre-norm hands gradients down whole, post-norm loses them with depth', async () => {
    const [pre, post] = [await measure('pre', gain), await measure('post', gain)]
    log(`pre-norm, gain ${gain}`, pre)
    log(`post-norm, gain ${gain}`, post)
    for (const share of pre.flatMap(({ shares }) => shares)) {
      expect(share).toBeGreaterThan(0.7)
      expect(share).toBeLessThan(1.5)
    }
    for (const { shares } of post) {
      const [, , half, whole] = shares
      expect(half).toBeLessThan(gain === 1 ? 0.2 : 0.75)
      expect(Math.abs(whole - half ** 2)).toBeLessThan(0.2)
    }
  })

  it('pre-norm lets rows grow as the root of depth, post-norm holds their size', async () => {
    const [pre, post] = [await measure('pre', gain), await measure('post', gain)]
    for (const { sizes } of pre) expect(sizes[3] / sizes[1]).toBeLessThan(Math.sqrt(DEPTHS[3] / DEPTHS[1]) * 1.5)
    for (const value of post.flatMap(({ sizes }) => sizes)) expect(Math.abs(value - 1)).toBeLessThan(1e-3)
  })
})

it('post-norm turns rows further away from what was embedded', async () => {
  const [pre, post] = [await measure('pre', 0.5), await measure('post', 0.5)]
  for (const [i, { kept }] of pre.entries()) expect(kept - post[i].kept).toBeGreaterThan(0.1)
})
