import { describe, expect, it } from 'vitest'
import { DROPPED, route } from '../../../../services/gateway/forward/route.ts'
import type { Capacity, Router } from '../../../../shared/model/config.ts'
import { affinities, route as oracle } from '../../../reference/router.ts'
import { normals } from '../../../support/model.ts'
import { uniform } from '../../../support/numbers.ts'
import { seeded } from '../../../support/random.ts'

const plain: Router = { score: 'softmax', bias: false, groups: null, renormalise: null, scale: 1, capacity: null }

const routeOf = (scores: number[], topK: number, router: Partial<Router>, bias?: number[]) => {
  const { ids, weights } = route(
    Float32Array.from(scores),
    bias?.length ?? scores.length,
    topK,
    { ...plain, ...router },
    bias ? Float32Array.from(bias) : null,
  )
  return { ids: [...ids], weights: [...weights].map((weight) => Number(weight.toFixed(6))) }
}

describe('worked by hand', () => {
  it('takes the best experts in ascending id, weighted by their affinity', () => {
    expect(routeOf([0.1, 0.2, 0.3, 0.4], 2, {})).toEqual({ ids: [2, 3], weights: [0.3, 0.4] })
    expect(routeOf([0.4, 0.1, 0.2, 0.3], 3, { scale: 2.5 })).toEqual({ ids: [0, 2, 3], weights: [1, 0.5, 0.75] })
    expect(routeOf([0.25, 0.75], 2, {})).toEqual({ ids: [0, 1], weights: [0.25, 0.75] })
  })

  it('renormalises by sum and epsilon, then scales', () => {
    expect(routeOf([0.1, 0.3, 0.2], 2, { renormalise: { epsilon: 0 }, scale: 10 }).weights).toEqual([6, 4])
    expect(routeOf([0.1, 0.3, 0.2], 2, { renormalise: { epsilon: 0.5 } }).weights).toEqual([0.3, 0.2])
    expect(routeOf([0.1, 0.3, 0.2], 1, { renormalise: { epsilon: 1e-20 } })).toEqual({ ids: [1], weights: [1] })
  })

  it('chooses by affinity plus bias and weighs by affinity alone', () => {
    expect(routeOf([0.5, 0.4, 0.3], 1, { bias: true }, [0, 0, 1])).toEqual({ ids: [2], weights: [0.3] })
    expect(
      routeOf([0.5, 0.4, 0.3], 2, { bias: true, renormalise: { epsilon: 0 }, scale: 2 }, [-1, 0, 0]).weights,
    ).toEqual([Number(((2 * 0.4) / 0.7).toFixed(6)), Number(((2 * 0.3) / 0.7).toFixed(6))])
  })

  it('judges a group by its best expert, or by its two best', () => {
    const scores = [0.5, 0.1, 0.35, 0.3]
    const groups = { count: 2, keep: 1 }
    expect(routeOf(scores, 2, { groups: { ...groups, score: 'max' } }).ids).toEqual([0, 1])
    expect(routeOf(scores, 2, { groups: { ...groups, score: 'top2' } }).ids).toEqual([2, 3])
  })

  it('judges groups with the bias', () => {
    const groups = { count: 2, keep: 1, score: 'top2' } as const
    expect(routeOf([0.5, 0.4, 0.1, 0.1], 1, { groups, bias: true }, [0, 0, 0.5, 0.5])).toEqual({
      ids: [2],
      weights: [0.1],
    })
  })

  it('never leaves the kept groups, not even when the bias makes every choice there negative', () => {
    const groups = { count: 2, keep: 1, score: 'top2' } as const
    const bias = [-0.6, -1.1, -0.7, -1.9]
    expect(routeOf([0.5, 0.4, 0.6, 0.3], 2, { groups, bias: true }, bias)).toEqual({ ids: [0, 1], weights: [0.5, 0.4] })
  })

  it('gives ties to the lowest id, among experts and among groups', () => {
    expect(routeOf([0.2, 0.3, 0.3, 0.3], 2, {}).ids).toEqual([1, 2])
    expect(routeOf([0, 0, 0, 0], 3, {})).toEqual({ ids: [0, 1, 2], weights: [0, 0, 0] })
    for (const score of ['max', 'top2'] as const) {
      const groups = { count: 3, keep: 1, score }
      expect(routeOf([0.1, 0.1, 0.2, 0.3, 0.2, 0.3], 2, { groups }).ids).toEqual([2, 3])
    }
  })

  it('routes every row by itself, and no rows to nothing', () => {
    expect(routeOf([0.5, 0.25, 0.25, 0.125, 0.125, 0.75], 1, {}, [0, 0, 0])).toEqual({
      ids: [0, 2],
      weights: [0.5, 0.75],
    })
    expect(route(new Float32Array(0), 4, 2, plain, null)).toMatchObject({
      topK: 2,
      ids: new Uint32Array(0),
      weights: new Float32Array(0),
    })
  })

  it('leaves the affinities as they were', () => {
    const scores = Float32Array.from([0.1, 0.4, 0.2, 0.3])
    const groups = { count: 2, keep: 1, score: 'max' } as const
    route(scores, 4, 2, { ...plain, groups, bias: true }, Float32Array.from([1, 1, 1, 1]))
    expect(scores).toEqual(Float32Array.from([0.1, 0.4, 0.2, 0.3]))
  })
})

const forms = (['softmax', 'sigmoid'] as const).flatMap((score) =>
  [false, true].flatMap((bias) =>
    ([null, 'max', 'top2'] as const).flatMap((groups) =>
      [null, 0, 1e-20].map((epsilon) => ({ score, bias, groups, epsilon })),
    ),
  ),
)

/** Two roundings of a sum of at most eight, one of a division, one of a product. */
const TOLERANCE = 1e-6

describe('the oracle’s capacity', () => {
  const limits: Capacity['limit'][] = [{ rows: 1 }, { rows: 3 }, { share: 0.3 }, { share: 1 }]
  it.each(limits.flatMap((limit) => [true, false].map((dropFirst) => ({ limit, dropFirst }))))(
    'agrees for each of several sequences: $limit, dropped first $dropFirst',
    (capacity) => {
      const next = seeded(5)
      let dropped = 0
      for (let round = 0; round < 40; round++) {
        const [experts, topK] = [2 + next(5), 1 + next(2)]
        const router: Router = { ...plain, renormalise: { epsilon: 0 }, scale: 0.8, capacity }
        const lengths = Array.from({ length: 1 + next(4) }, () => 1 + next(20))
        const starts = Uint32Array.from([0, ...lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b))])
        const scores = affinities(normals(starts[lengths.length] * experts, round), experts, 'softmax')
        const actual = route(scores, experts, topK, router, null, starts)
        for (const [i, length] of lengths.entries()) {
          const own = scores.slice(starts[i] * experts, starts[i + 1] * experts)
          const expected = oracle(own, { experts, topK, router }, undefined, true)
          for (let at = 0; at < length * topK; at++) {
            const place = starts[i] * topK + at
            const kept = actual.ids[place] !== DROPPED
            if (!kept) dropped++
            expect(kept).toBe(expected.weights[at] > 0)
            if (kept) expect(actual.ids[place]).toBe(expected.ids[at])
            expect(Math.abs(actual.weights[place] - expected.weights[at])).toBeLessThanOrEqual(TOLERANCE)
          }
        }
      }
      if ('share' in capacity.limit && capacity.limit.share === 1) expect(dropped).toBe(0)
      else expect(dropped).toBeGreaterThan(0)
      expect(route(new Float32Array(8).fill(0.5), 2, 2, { ...plain, capacity }, null).ids).not.toContain(DROPPED)
    },
  )
})

describe('the oracle’s router', () => {
  it.each(forms)('agrees: $score, bias $bias, groups $groups, epsilon $epsilon', ({ score, bias, groups, epsilon }) => {
    const next = seeded(forms.findIndex((form) => form.score === score && form.groups === groups) + 1)
    for (let round = 0; round < 60; round++) {
      const count = 2 + next(4)
      const experts = count * (2 + next(7))
      const keep = 1 + next(count)
      const topK = 1 + next(Math.min(8, groups ? (keep * experts) / count : experts))
      const router: Router = {
        score,
        bias,
        groups: groups && { count, keep, score: groups },
        renormalise: epsilon === null ? null : { epsilon },
        scale: round % 2 ? 1 : 2.5,
        capacity: null,
      }
      const rows = 1 + next(20)
      const scores = affinities(normals(rows * experts, round), experts, score)
      // Coarse affinities tie, and so do the groups they make.
      if (round % 3 === 0) for (let i = 0; i < scores.length; i++) scores[i] = Math.round(scores[i] * 16) / 16 + 1 / 16
      const draw = uniform(round)
      const biases = bias ? Float32Array.from({ length: experts }, () => Math.round((draw() - 0.7) * 32) / 16) : null
      const actual = route(scores, experts, topK, router, biases)
      const expected = oracle(scores, { experts, topK, router }, biases ?? undefined)
      expect([...actual.ids]).toEqual([...expected.ids])
      expect(actual.topK).toBe(topK)
      for (const [i, weight] of expected.weights.entries())
        expect(Math.abs(actual.weights[i] - weight)).toBeLessThanOrEqual(TOLERANCE * weight)
    }
  })
})
