import { describe, expect, test } from 'vitest'
import { type Balanced, balance, type Demand, type Wish } from '../../../../services/gateway/placement/balance.ts'
import { eplb } from '../../../../services/gateway/placement/eplb.ts'
import { type Home, missing } from '../../../../services/gateway/placement/locate.ts'
import { deal } from '../../../../services/gateway/placement/repair.ts'
import { simulate } from '../../../../services/gateway/placement/simulate.ts'
import { zipf } from '../../../../services/gateway/placement/trace.ts'
import { Code } from '../../../../shared/errors.ts'
import { seeded } from '../../../support/random.ts'

const spaceOf = (layers: number, experts: number) => ({
  layers: Array.from({ length: layers }, (_, i) => i + 1),
  experts,
})
const workersOf = (slots: number, speeds: readonly number[]) =>
  speeds.map((speed, i) => ({
    memoryBytes: Math.floor(slots / speeds.length) + (i < slots % speeds.length ? 1 : 0),
    speed,
  }))
const keysOf = (home: Home): string[] =>
  home.flatMap(({ layer, experts }) => experts.map((expert) => `${layer}/${expert}`))
const loadsOf = ({ rounds }: Balanced): number => rounds.flatMap(({ loads }) => loads).flatMap(keysOf).length

/** Plays the rounds: what must hold after every one of them, whatever the rules of the search. */
const play = (demand: Demand, { homes, rounds }: Balanced): void => {
  const slots = demand.workers.map(({ memoryBytes }) => Math.floor(memoryBytes / demand.expertBytes))
  const held = demand.workers.map((_, worker) => new Set(keysOf(demand.homes?.[worker] ?? [])))
  const first = held.map((keys) => keys.size)
  const covered = new Set(held.flatMap((keys) => [...keys]))
  for (const { loads, unloads } of rounds) {
    for (const [worker, keys] of held.entries()) {
      for (const key of keysOf(loads[worker])) {
        expect(keys.has(key)).toBe(false)
        keys.add(key)
        covered.add(key)
      }
      expect(keys.size).toBeLessThanOrEqual(Math.max(first[worker], slots[worker]))
    }
    for (const [worker, keys] of held.entries())
      for (const key of keysOf(unloads[worker])) expect(keys.delete(key)).toBe(true)
    expect(new Set(held.flatMap((keys) => [...keys])).size).toBe(covered.size)
  }
  expect(held.map((keys) => [...keys].sort())).toEqual(homes.map((home) => keysOf(home).sort()))
  expect(missing(demand.space, homes)).toEqual([])
}

const roomOf = (workers: readonly { memoryBytes: number }[]) => workers.map(({ memoryBytes }) => memoryBytes)

describe('balance', () => {
  const shapes: [string, number, number, number, number[]][] = [
    ['the demo model', 4, 24, 4, [1, 2, 3, 4, 5]],
    ['DeepSeekMoE-16B', 27, 64, 6, [1, 2, 3]],
    ['DeepSeek-V3', 58, 256, 8, [1]],
  ]

  test.each(shapes)(
    '%s: Zipf-skewed load is level on 4 workers with a quarter of spare slots',
    (_, layers, experts, topK, seeds) => {
      const space = spaceOf(layers, experts)
      const workers = workersOf(Math.ceil(layers * experts * 1.25), [1, 1, 1, 1])
      for (const seed of seeds) {
        const load = zipf(space, topK, 1.2, seeded(seed))
        const homes = deal(space, roomOf(workers))
        const demand = { space, expertBytes: 1, workers, load, homes }
        const balanced = balance(demand)
        play(demand, balanced)
        expect(balanced.expected.imbalance).toBeLessThanOrEqual(1.1)
        expect(balanced.expected.stepImbalance).toBeLessThanOrEqual(1.1)
        const unbalanced = simulate({ space, speeds: [1, 1, 1, 1], homes, load })
        expect(unbalanced.stepTime / balanced.expected.stepTime).toBeGreaterThanOrEqual(1.3)
      }
    },
  )

  test.each(shapes)('%s: workers of speed 1:2:4 get their share, within a tenth', (_, layers, experts, topK, seeds) => {
    const space = spaceOf(layers, experts)
    const speeds = [1, 2, 4]
    const workers = workersOf(Math.ceil(layers * experts * 1.25), speeds)
    for (const seed of seeds) {
      const load = zipf(space, topK, 1.2, seeded(seed))
      const demand = { space, expertBytes: 1, workers, load, homes: deal(space, roomOf(workers)) }
      const balanced = balance(demand)
      play(demand, balanced)
      const total = layers * topK
      for (const [worker, rows] of balanced.expected.rows.entries())
        expect(Math.abs(rows / total / (speeds[worker] / 7) - 1)).toBeLessThan(0.1)
    }
  })

  test('what it expects of a load holds for a sample of it', () => {
    const space = spaceOf(4, 24)
    const load = zipf(space, 4, 1.2, seeded(9))
    const random = seeded(10)
    const sample = load.map((shares) => shares?.map((share) => Math.max(0, 1000 * share + random(61) - 30)))
    const demand = { space, expertBytes: 1, workers: workersOf(120, [1, 1, 1, 1]), load }
    const { homes } = balance(demand)
    expect(simulate({ space, speeds: [1, 1, 1, 1], homes, load: sample }).stepImbalance).toBeLessThan(1.1)
  })

  test('is as balanced as EPLB wherever EPLB applies', () => {
    const random = seeded(11)
    for (let round = 0; round < 300; round += 1) {
      const gpus = 2 + random(7)
      const experts = gpus + random(30)
      const perGpu = Math.ceil((experts + random(experts + 1)) / gpus)
      const rows = Array.from({ length: experts }, () => 1 + random(100) ** (1 + random(3)))
      const { slots, copies } = eplb([rows], { slots: gpus * perGpu, gpus })
      const theirs = Array<number>(gpus).fill(0)
      for (const [slot, expert] of slots[0].entries())
        theirs[Math.floor(slot / perGpu)] += rows[expert] / copies[0][expert]
      const mean = rows.reduce((sum, own) => sum + own, 0) / gpus
      const workers = Array.from({ length: gpus }, () => ({ memoryBytes: perGpu, speed: 1 }))
      const { expected } = balance({ space: spaceOf(1, experts), expertBytes: 1, workers, load: [undefined, rows] })
      expect(expected.imbalance).toBeLessThanOrEqual((Math.max(...theirs) / mean) * 1.01)
    }
  })

  test('keeps memory, coverage and copies for any workers, load and present homes', () => {
    const random = seeded(12)
    for (let round = 0; round < 300; round += 1) {
      const space = spaceOf(1 + random(4), 1 + random(20))
      const needed = space.layers.length * space.experts
      const workers = Array.from({ length: 1 + random(6) }, () => ({ memoryBytes: random(40), speed: 1 + random(4) }))
      const replicasMin = 1 + random(3)
      const load = zipf(space, 1, random(3), random)
      const anyHome = ({ memoryBytes }: { memoryBytes: number }): Home =>
        space.layers.map((layer) => ({
          layer,
          experts: [...Array(space.experts).keys()].filter(() => random(needed) < memoryBytes),
        }))
      const homes = round % 3 === 0 ? [] : workers.map(anyHome)
      const demand = { space, expertBytes: 1, workers, load, homes, replicasMin }
      const slots = workers.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0)
      if (slots < needed) {
        expect(() => balance(demand)).toThrow(expect.objectContaining({ code: Code.RESOURCE_EXHAUSTED }))
        continue
      }
      const balanced = balance(demand)
      expect(balance(demand)).toEqual(balanced)
      play(demand, balanced)
      const count = new Map<string, number>()
      for (const key of balanced.homes.flatMap(keysOf)) count.set(key, (count.get(key) ?? 0) + 1)
      const least = Math.min(replicasMin, workers.length)
      if (workers.every(({ memoryBytes }) => memoryBytes >= needed))
        for (const copies of count.values()) expect(copies).toBeGreaterThanOrEqual(least)
    }
  })

  test('leaves level workers alone, and moves only when that is worth it', () => {
    const space = spaceOf(4, 24)
    const workers = workersOf(120, [1, 1, 1, 1])
    const load = zipf(space, 4, 1.2, seeded(3))
    const first = balance({ space, expertBytes: 1, workers, load })
    expect(loadsOf(balance({ space, expertBytes: 1, workers, load, homes: first.homes }))).toBe(0)

    const dealt = deal(space, roomOf(workers))
    const gain = (gainMin: number) => loadsOf(balance({ space, expertBytes: 1, workers, load, homes: dealt, gainMin }))
    expect(gain(0.1)).toBeGreaterThan(0)
    expect(gain(0.9)).toBe(0)
  })

  test('a budget of loads is kept, and each load of it helps', () => {
    const space = spaceOf(8, 32)
    const workers = workersOf(320, [1, 1, 1, 1])
    const load = zipf(space, 4, 1.2, seeded(4))
    const homes = deal(space, roomOf(workers))
    const times = [0, 4, 8, 16, 32].map((loadsMax) => {
      const balanced = balance({ space, expertBytes: 1, workers, load, homes, loadsMax })
      expect(loadsOf(balanced)).toBeLessThanOrEqual(loadsMax)
      return balanced.expected.stepTime
    })
    for (let i = 1; i < times.length; i += 1) expect(times[i]).toBeLessThan(times[i - 1])
  })

  test('is never worse than what is held, however little room there is to move', () => {
    const random = seeded(13)
    for (let round = 0; round < 100; round += 1) {
      const space = spaceOf(1 + random(3), 4 + random(20))
      const speeds = Array.from({ length: 2 + random(3) }, () => 1 + random(3))
      const workers = workersOf(space.layers.length * space.experts + random(3), speeds)
      const load = zipf(space, 2, 1.2, random)
      const demand = { space, expertBytes: 1, workers, load, homes: deal(space, roomOf(workers)) }
      const balanced = balance(demand)
      play(demand, balanced)
      const { expected, before } = balanced
      expect(expected.imbalance + expected.stepImbalance).toBeLessThanOrEqual(
        before!.imbalance + before!.stepImbalance + 1e-9,
      )
    }
  })

  test('the experts of a worker that is gone go to the others, and nothing else moves without need', () => {
    const space = spaceOf(2, 8)
    const workers = workersOf(32, [1, 1])
    const homes = [[{ layer: 1, experts: [0, 1, 2, 3] }], [{ layer: 2, experts: [0, 1, 2, 3, 4, 5, 6, 7] }]]
    const demand = { space, expertBytes: 1, workers, homes, loadsMax: 0 }
    const balanced = balance(demand)
    play(demand, balanced)
    expect(balanced.before).toBeNull()
    expect(loadsOf(balanced)).toBe(4)
  })
})

describe('rules', () => {
  const space = spaceOf(2, 8)
  const none: Wish = { pinned: [], forbidden: new Set(), copies: 1 }
  const workers = workersOf(24, [1, 1, 1])
  const with1 = (wish: Partial<Wish>) => (layer: number, expert: number) =>
    layer === 1 && expert === 3 ? { ...none, ...wish } : none
  const holders = ({ homes }: Balanced): number[] => [...homes.keys()].filter((w) => keysOf(homes[w]).includes('1/3'))

  test.each([
    ['pinned experts are there', { pinned: [2, 1] }, (held: number[]) => held.includes(1) && held.includes(2)],
    ['forbidden ones are not', { forbidden: new Set([0, 2]) }, (held: number[]) => held.join() === '1'],
    ['replicated ones have their copies', { copies: 3 }, (held: number[]) => held.length === 3],
    ['they have as many as there are workers', { copies: 9 }, (held: number[]) => held.length === 3],
  ] as const)('%s, whatever is held', (_, wish, holds) => {
    const full = deal(space, roomOf(workersOf(24, [1, 1, 1])))
    for (const homes of [[], full, [full[1], full[2], full[0]]]) {
      const demand = { space, expertBytes: 1, workers, homes, wishes: with1(wish) }
      const balanced = balance(demand)
      play(demand, balanced)
      expect(holds(holders(balanced))).toBe(true)
    }
  })

  test.each([
    ['pin and forbid', { pinned: [0], forbidden: new Set([0]) }, 'both pin (layer 1, expert 3)'],
    ['no worker left', { forbidden: new Set([0, 1, 2, 3]) }, 'forbid (layer 1, expert 3) on every worker'],
    [
      'a worker too small for what is pinned to it',
      { pinned: [3] },
      'no room for (layer 1, expert 3) on the worker that it is pinned to',
    ],
  ])('%s is refused with a sentence', (_, wish, sentence) => {
    const small = { memoryBytes: 0, speed: 1 }
    const demand = { space, expertBytes: 1, workers: [...workers, small], wishes: with1(wish) }
    expect(() => balance(demand)).toThrow(sentence)
  })
})
