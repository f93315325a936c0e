import { describe, expect, test } from 'vitest'
import { oddsOf, weightOf } from '../../../../services/gateway/placement/choose.ts'
import type { Home } from '../../../../services/gateway/placement/locate.ts'
import { simulate, type Traffic, traffic } from '../../../../services/gateway/placement/simulate.ts'
import { zipf } from '../../../../services/gateway/placement/trace.ts'
import { seeded } from '../../../support/random.ts'

const space = { layers: [1, 2], experts: 2 }
const all: Home = space.layers.map((layer) => ({ layer, experts: [0, 1] }))
const only = (expert: number): Home => space.layers.map((layer) => ({ layer, experts: [expert] }))

describe('simulate', () => {
  test('a step waits in each layer for the slowest worker', () => {
    const load = [undefined, [30, 10], [10, 30]]
    const { rows, imbalance, stepImbalance, stepTime } = simulate({
      space,
      speeds: [1, 1],
      homes: [only(0), only(1)],
      load,
    })
    expect({ rows, imbalance, stepImbalance, stepTime }).toEqual({
      rows: [40, 40],
      imbalance: 1,
      stepImbalance: 1.5,
      stepTime: 60,
    })
  })

  test('rows of an expert on several workers divide by their speed', () => {
    const load = [undefined, [40, 40], [40, 40]]
    const { rows, stepTime } = simulate({ space, speeds: [3, 1], homes: [all, all], load })
    expect(rows[0]).toBeCloseTo(120, -1)
    expect(rows[1]).toBeCloseTo(40, -1)
    expect(stepTime / 40).toBeCloseTo(1, 1)
  })
})

describe('traffic of a token', () => {
  const about = (figures: Traffic) => ({
    messages: expect.closeTo(figures.messages, 6),
    bytesOut: expect.closeTo(figures.bytesOut, 4),
    bytesIn: figures.bytesIn,
  })
  const load = [undefined, [1, 1], [1, 1]]
  const wire = { topK: 1, hidden: 100, precision: 'int8' } as const

  test('a row goes once to a worker, with its scale, and comes back in fp32', () => {
    const together = { space, speeds: [1], homes: [all], load }
    expect(traffic(together, wire, 1)).toEqual(about({ messages: 2, bytesOut: 2 * (104 + 8), bytesIn: 2 * 400 }))
    const both = { ...wire, topK: 2 }
    expect(traffic(together, both, 1)).toEqual(about({ messages: 2, bytesOut: 2 * (104 + 16), bytesIn: 2 * 800 }))
    const apart = { ...together, speeds: [1, 1], homes: [only(0), only(1)] }
    expect(traffic(apart, both, 1)).toEqual(about({ messages: 4, bytesOut: 2 * (208 + 16), bytesIn: 2 * 800 }))
    expect(traffic(apart, { ...both, precision: 'fp32' }, 1).bytesOut).toBeCloseTo(2 * (800 + 16), 6)
  })

  test.each([1, 2, 3])('agrees with drawn rows of %i experts, in steps of any size', (topK) => {
    const random = seeded(41)
    const shares = zipf({ layers: [0], experts: 6 }, topK, 0.8, random)[0]
    const odds = oddsOf(shares, topK)
    const homes: Home[] = [[0, 1], [2, 3, 4], [5]].map((experts) => [{ layer: 0, experts }])
    const holder = [0, 0, 1, 1, 1, 2]
    for (const batch of [1, 4]) {
      const simulated = { space: { layers: [0], experts: 6 }, speeds: [1, 1, 1], homes, load: [shares] }
      const expected = traffic(simulated, { ...wire, topK }, batch)
      let messages = 0
      const steps = 10_000
      for (let step = 0; step < steps; step += 1)
        messages += new Set(
          Array.from({ length: batch }, () => draw(odds, topK, random))
            .flat()
            .map((e) => holder[e]),
        ).size
      expect(Math.abs(expected.messages / (messages / steps / batch) - 1)).toBeLessThan(0.03)
    }
  })
})

/** Different experts with these shares, by rejection: each alone by its odds, until there are topK. */
const draw = (odds: Float64Array, topK: number, random: (limit: number) => number): number[] => {
  for (;;) {
    const chosen = [...odds].flatMap((own, e) => (random(1_000_000) / 1_000_000 < own / (1 + own) ? [e] : []))
    if (chosen.length === topK) return chosen
  }
}

test('odds bring about the shares they are for', () => {
  const random = seeded(42)
  for (const topK of [1, 2, 4]) {
    const shares = zipf({ layers: [0], experts: 8 }, topK, 1.1, random)[0]
    const odds = oddsOf(shares, topK)
    const all = weightOf(odds, topK)
    for (const [e, share] of shares.entries()) {
      const without = odds.map((own, other) => (other === e ? 0 : own))
      expect(1 - weightOf(without, topK) / all).toBeCloseTo(share, 2)
    }
  }
})
