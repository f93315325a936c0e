import { describe, expect, test } from 'vitest'
import { sequence } from '../../../../services/gateway/placement/moves.ts'
import { seeded } from '../../../support/random.ts'

const sets = (...held: number[][]) => held.map((items) => new Set(items))

describe('sequence', () => {
  test('loads first and unloads after, where there is room', () => {
    const { rounds, reached } = sequence(sets([0, 1], [2]), sets([1], [2, 0]), [2, 2])
    expect(rounds).toEqual([{ loads: [[], [0]], unloads: [[0], []] }])
    expect(reached).toEqual(sets([1], [2, 0]))
  })

  test('a spare copy makes way for what a full worker shall load', () => {
    const { rounds } = sequence(sets([0, 1], [0, 2]), sets([0, 2], [0, 1]), [3, 2])
    expect(rounds).toEqual([
      { loads: [[2], []], unloads: [[], [2]] },
      { loads: [[], [1]], unloads: [[1], []] },
    ])
  })

  test('an exchange between two full workers is left out: neither may lose its only copy first', () => {
    expect(sequence(sets([0], [1]), sets([1], [0]), [1, 1])).toEqual({ rounds: [], reached: sets([0], [1]) })
  })

  test('copies fall below their number only where nothing else would go on', () => {
    const { rounds, reached } = sequence(sets([0, 1], [0, 1], [2]), sets([0, 2], [0, 1], [1]), [2, 2, 1])
    expect(rounds).toEqual([
      { loads: [[], [], []], unloads: [[1], [], []] },
      { loads: [[2], [], []], unloads: [[], [], [2]] },
      { loads: [[], [], [1]], unloads: [[], [], []] },
    ])
    expect(reached).toEqual(sets([0, 2], [0, 1], [1]))
  })

  test('never leaves an item without a copy or a worker without room, and arrives where one slot is free', () => {
    const random = seeded(31)
    for (let round = 0; round < 500; round += 1) {
      const workers = 1 + random(4)
      const items = 1 + random(10)
      const deal = () => {
        const held = Array.from({ length: workers }, () => new Set<number>())
        for (let item = 0; item < items; item += 1)
          for (let copies = 1 + random(2); copies > 0; copies -= 1) held[random(workers)].add(item)
        return held
      }
      const [from, to] = [deal(), deal()]
      const slots = from.map((held, worker) => Math.max(held.size, to[worker].size) + random(2))
      const { rounds, reached } = sequence(from, to, slots)
      const held = from.map((own) => new Set(own))
      for (const { loads, unloads } of rounds) {
        for (const [worker, own] of loads.entries()) for (const item of own) held[worker].add(item)
        for (const [worker, own] of held.entries()) expect(own.size).toBeLessThanOrEqual(slots[worker])
        for (const [worker, own] of unloads.entries())
          for (const item of own) expect(held[worker].delete(item)).toBe(true)
        expect(new Set(held.flatMap((own) => [...own])).size).toBe(items)
      }
      expect(held).toEqual(reached)
      const roomy = slots.every((count, worker) => count >= new Set([...from[worker], ...to[worker]]).size)
      if (roomy) expect(reached).toEqual(to)
    }
  })
})
