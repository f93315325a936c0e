import { describe, expect, test } from 'vitest'
import { eplb, packEvenly, replicate } from '../../../../services/gateway/placement/eplb.ts'
import { seeded } from '../../../support/random.ts'

describe('eplb', () => {
  test('gives what the README of deepseek-ai/EPLB prints for its example', () => {
    const load = [
      [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
      [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
    expect(eplb(load, { slots: 16, groups: 4, nodes: 2, gpus: 8 })).toEqual({
      slots: [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
      ],
      copies: [
        [1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1],
        [1, 2, 1, 1, 1, 2, 2, 1, 2, 1, 1, 1],
      ],
    })
  })

  test('balances over all machines at once where groups do not divide among them', () => {
    const load = [[9, 1, 1, 1, 1, 1]]
    const shape = { slots: 8, gpus: 4 }
    expect(eplb(load, { ...shape, groups: 3, nodes: 2 })).toEqual(eplb(load, shape))
  })

  test('says which parts are not equal', () => {
    expect(() => eplb([[1, 2, 3]], { slots: 4, gpus: 3 })).toThrow('4 is no multiple of 3')
    expect(() => eplb([[1, 2, 3]], { slots: 2, gpus: 1 })).toThrow('3 experts into at least as many slots')
  })

  test('has each expert, fills each slot and counts its copies, for random load', () => {
    const random = seeded(5)
    for (let round = 0; round < 100; round += 1) {
      const [gpus, perGpu] = [1 + random(6), 1 + random(6)]
      const experts = 1 + random(gpus * perGpu)
      const load = [Array.from({ length: experts }, () => random(1000))]
      const { slots, copies } = eplb(load, { slots: gpus * perGpu, gpus })
      expect(slots[0]).toHaveLength(gpus * perGpu)
      for (let e = 0; e < experts; e += 1) {
        expect(slots[0].filter((expert) => expert === e)).toHaveLength(copies[0][e])
        expect(copies[0][e]).toBeGreaterThan(0)
      }
    }
  })
})

test('packing keeps packs of one size within the heaviest item of each other', () => {
  const random = seeded(6)
  for (let round = 0; round < 100; round += 1) {
    const packs = 1 + random(6)
    const weights = Array.from({ length: packs * (2 + random(5)) }, () => random(100))
    const placed = packEvenly(weights, packs)
    const sums = Array.from({ length: packs }, (_, pack) =>
      weights.reduce((sum, weight, i) => sum + (placed[i].pack === pack ? weight : 0), 0),
    )
    const places = placed.map(({ pack, rank }) => `${pack}/${rank}`)
    expect(new Set(places).size).toBe(weights.length)
    expect(Math.max(...sums) - Math.min(...sums)).toBeLessThanOrEqual(Math.max(...weights))
  }
})

test('no expert has more load per copy than the last slot could have taken away', () => {
  const random = seeded(7)
  for (let round = 0; round < 100; round += 1) {
    const load = Array.from({ length: 1 + random(20) }, () => 1 + random(1000))
    const { copies } = replicate(load, load.length + random(20))
    const most = Math.max(...load.map((rows, e) => rows / copies[e]))
    for (const [e, rows] of load.entries())
      if (copies[e] > 1) expect(rows / (copies[e] - 1)).toBeGreaterThanOrEqual(most)
  }
})
