import { expect, test } from 'vitest'
import { Split } from '../../../../services/gateway/placement/split.ts'
import { seeded } from '../../../support/random.ts'

const random = seeded(21)
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

/** One layer of random experts on random workers, levelled. */
const anySplit = () => {
  const experts = 1 + random(12)
  const speeds = Array.from({ length: 1 + random(5) }, () => 1 + random(4))
  const load = [Array.from({ length: experts }, () => 1 + random(100))]
  const split = new Split({ space: { layers: [0], experts }, speeds, load, copiesPerLayer: experts * 2 })
  for (let item = 0; item < experts; item += 1) {
    split.add(item, random(speeds.length))
    for (let worker = 0; worker < speeds.length; worker += 1)
      if (random(3) === 0 && !split.holds(worker, item)) split.add(item, worker)
  }
  split.levelAll()
  return { split, experts, speeds, load: load[0] }
}

test('every row goes to a holder of its expert, and to the lowest of them', () => {
  for (let round = 0; round < 300; round += 1) {
    const { split, experts, load } = anySplit()
    for (let item = 0; item < experts; item += 1) {
      expect(sum(split.shares[item])).toBeCloseTo(load[item], 6)
      const heights = split.holders[item].map((worker) => split.height(0, worker))
      for (const [i, rows] of split.shares[item].entries()) {
        expect(rows).toBeGreaterThanOrEqual(0)
        // Whoever got rows is among the lowest, but for what the last pass left to do.
        if (rows > 1e-6) expect(heights[i]).toBeLessThanOrEqual(Math.min(...heights) * 1.02 + 1e-9)
      }
    }
  }
})

/** The least possible greatest time, by looking for it: rows fit into `time` when no set of experts has more than its holders can do. */
const leastTime = ({ split, experts, speeds, load }: ReturnType<typeof anySplit>): number => {
  let least = 0
  for (let set = 1; set < 2 ** experts; set += 1) {
    const chosen = [...Array(experts).keys()].filter((item) => (set >> item) & 1)
    const holders = new Set(chosen.flatMap((item) => split.holders[item]))
    least = Math.max(least, sum(chosen.map((item) => load[item])) / sum([...holders].map((worker) => speeds[worker])))
  }
  return least
}

test('no other division of the rows has a faster slowest worker', () => {
  for (let round = 0; round < 100; round += 1) {
    const any = anySplit()
    expect(any.split.measure().stepTime).toBeLessThanOrEqual(leastTime(any) * 1.02)
    expect(any.split.measure().stepTime).toBeGreaterThanOrEqual(leastTime(any) * 0.999)
  }
})

test('what is added and taken away again leaves no trace', () => {
  for (let round = 0; round < 100; round += 1) {
    const { split, experts, speeds } = anySplit()
    const before = split.measure()
    const item = random(experts)
    const worker = speeds.findIndex((_, i) => !split.holds(i, item))
    if (worker < 0) continue
    split.add(item, worker)
    split.levelLayer(0)
    split.remove(item, worker)
    split.levelAll()
    expect(split.measure().stepTime / before.stepTime).toBeCloseTo(1, 1)
    expect(sum(split.measure().rows)).toBeCloseTo(sum(before.rows), 6)
  }
})

test('experts without rows count as a little, those of a layer without rows as equal', () => {
  const shape = { space: { layers: [3, 5], experts: 2 }, speeds: [1], copiesPerLayer: 2 }
  const split = new Split({ ...shape, load: [undefined, undefined, undefined, [1000, 0]] })
  expect([...split.load]).toEqual([1000, 0.5, 1, 1])
})
