import { describe, expect, it } from 'vitest'
import type { Router } from '../../../shared/model/config.ts'
import { affinities, route } from '../../reference/router.ts'

const plain: Router = { score: 'softmax', bias: false, groups: null, renormalise: null, scale: 1, capacity: null }

const routeOf = (scores: number[], topK: number, router: Partial<Router>, bias?: number[]) => {
  const moe = { experts: bias?.length ?? scores.length, topK, router: { ...plain, ...router } }
  const { ids, weights } = route(Float32Array.from(scores), moe, bias && Float32Array.from(bias))
  return { ids: [...ids], weights: [...weights].map((weight) => Number(weight.toFixed(6))) }
}

describe('router of the oracle', () => {
  it('takes the softmax of each row or the sigmoid of each value', () => {
    const logits = Float32Array.from([0, Math.log(3), 1000, 1000])
    expect([...affinities(logits, 2, 'softmax')]).toEqual([0.25, 0.75, 0.5, 0.5])
    expect([...affinities(Float32Array.from([0, Math.log(3)]), 2, 'sigmoid')]).toEqual([0.5, 0.75])
  })

  it('gives the best experts in ascending id, weighted by their affinity', () => {
    expect(routeOf([0.1, 0.2, 0.3, 0.4], 2, {})).toEqual({ ids: [2, 3], weights: [0.3, 0.4] })
    expect(routeOf([0.4, 0.1, 0.2, 0.3], 3, { scale: 2.5 })).toEqual({ ids: [0, 2, 3], weights: [1, 0.5, 0.75] })
  })

  it('routes every row by itself', () => {
    const moe = { experts: 3, topK: 1, router: plain }
    const { ids, weights } = route(Float32Array.from([0.5, 0.25, 0.25, 0.125, 0.125, 0.75]), moe)
    expect([...ids]).toEqual([0, 2])
    expect([...weights]).toEqual([0.5, 0.75])
  })

  it('breaks ties to the lowest id, among experts and among groups', () => {
    expect(routeOf([0.2, 0.3, 0.3, 0.3], 2, {}).ids).toEqual([1, 2])
    expect(routeOf([0.1, 0.1, 0.1, 0.1], 3, {}).ids).toEqual([0, 1, 2])
    const groups = { count: 3, keep: 1, score: 'max' } as const
    expect(routeOf([0.1, 0.2, 0.3, 0.1, 0.1, 0.3], 2, { groups }).ids).toEqual([2, 3])
  })

  it('renormalises before it scales', () => {
    expect(routeOf([0.1, 0.3, 0.2], 2, { renormalise: { epsilon: 0 }, scale: 10 }).weights).toEqual([6, 4])
    expect(routeOf([0.1, 0.3, 0.2], 2, { renormalise: { epsilon: 0.5 } }).weights).toEqual([0.3, 0.2])
  })

  it('lets the bias choose but not weigh', () => {
    expect(routeOf([0.5, 0.4, 0.3], 1, { bias: true }, [0, 0, 1])).toEqual({ ids: [2], weights: [0.3] })
  })

  it('judges a group by its best expert, or by its two best', () => {
    const scores = [0.5, 0.1, 0.35, 0.3]
    const groups = { count: 2, keep: 1 }
    expect(routeOf(scores, 2, { groups: { ...groups, score: 'max' } })).toEqual({ ids: [0, 1], weights: [0.5, 0.1] })
    expect(routeOf(scores, 2, { groups: { ...groups, score: 'top2' } })).toEqual({ ids: [2, 3], weights: [0.35, 0.3] })
  })

  it('never leaves the kept groups, not even when the bias makes every choice there negative', () => {
    const groups = { count: 2, keep: 1, score: 'top2' } as const
    const bias = [-0.6, -1.1, -0.7, -1.9]
    expect(routeOf([0.5, 0.4, 0.6, 0.3], 2, { groups, bias: true }, bias)).toEqual({ ids: [0, 1], weights: [0.5, 0.4] })
  })
})
