import { describe, expect, it } from 'vitest'
import { type Expert, expertsOf, homeOf, missing } from '../../../../services/gateway/placement/locate.ts'
import { type Repair, repair, type Standing } from '../../../../services/gateway/placement/repair.ts'
import { seeded } from '../../../support/random.ts'

const space = (layers: number, experts: number) => ({
  layers: Array.from({ length: layers }, (_, i) => i + 1),
  experts,
})
const empty = (slots: number): Standing => ({ holds: [], slots, leaving: false })
const key = ({ layer, expert }: Expert): string => `${layer}/${expert}`

/** What the workers hold once they have done as told. */
const carriedOut = (workers: readonly Standing[], { load, unload }: Repair): Standing[] =>
  workers.map((worker, i) => {
    const dropped = new Set(unload[i].map(key))
    const kept = expertsOf(worker.holds).filter((each) => !dropped.has(key(each)))
    return { ...worker, holds: homeOf([...kept, ...load[i]]) }
  })
const replicasOf = (workers: readonly Standing[]): Map<string, number> => {
  const counts = new Map<string, number>()
  for (const { holds } of workers.filter(({ leaving }) => !leaving))
    for (const each of expertsOf(holds)) counts.set(key(each), (counts.get(key(each)) ?? 0) + 1)
  return counts
}
/** Nothing is left to do after a few rounds. */
const settled = (shape: ReturnType<typeof space>, workers: readonly Standing[], wanted: number): boolean => {
  let now = workers
  for (let round = 0; round < ROUNDS_MAX; round++) {
    const decided = repair(shape, now, wanted)
    if ([decided.load, decided.unload].flat(2).length === 0) return true
    now = carriedOut(now, decided)
  }
  return false
}
const ROUNDS_MAX = 2
const sizes = (repaired: Repair): number[] => repaired.load.map(({ length }) => length)

describe('workers that hold nothing', () => {
  it('are dealt to in turn when they are equal', () => {
    expect(repair(space(2, 4), [empty(100), empty(100)], 1).load.map(homeOf)).toEqual([
      [
        { layer: 1, experts: [0, 2] },
        { layer: 2, experts: [0, 2] },
      ],
      [
        { layer: 1, experts: [1, 3] },
        { layer: 2, experts: [1, 3] },
      ],
    ])
  })

  it('get each expert in exactly one place, by memory, in every layer, for any workers', () => {
    for (let seed = 1; seed < 60; seed += 1) {
      const workers = Array.from({ length: 1 + (seed % 7) }, (_, i) => empty(40 + ((seed * 31 + i * 17) % 200)))
      const total = workers.reduce((sum, { slots }) => sum + slots, 0)
      const shape = space(1 + (seed % 4), 8)
      const dealt = repair(shape, workers, 1)
      const homes = dealt.load.map(homeOf)
      expect(missing(shape, homes)).toEqual([])
      expect(sizes(dealt).reduce((sum, count) => sum + count, 0)).toBe(shape.layers.length * 8)
      for (const [i, { slots }] of workers.entries()) {
        for (const layer of shape.layers) {
          const here = homes[i].find((held) => held.layer === layer)?.experts.length ?? 0
          expect(Math.abs(here - (8 * slots) / total)).toBeLessThan(2)
        }
      }
    }
  })

  it('are filled to the last expert, and one more is homeless', () => {
    const workers = [empty(5), empty(0), empty(3)]
    expect(sizes(repair(space(1, 8), workers, 1))).toEqual([5, 0, 3])
    expect(repair(space(1, 9), workers, 1).homeless).toEqual([{ layer: 1, expert: 8 }])
  })

  it('hold each expert as often as wanted, never twice', () => {
    const { load } = repair(space(2, 6), [empty(100), empty(100), empty(100)], 2)
    expect(load.map(({ length }) => length)).toEqual([8, 8, 8])
    for (const experts of load) expect(new Set(experts.map(key)).size).toBe(experts.length)
    expect(sizes(repair(space(1, 4), [empty(9), empty(9)], 5))).toEqual([4, 4])
  })
})

describe('workers that hold some', () => {
  it('go on as they began when a deal was cut short', () => {
    for (let seed = 1; seed < 40; seed += 1) {
      const next = seeded(seed)
      const workers = Array.from({ length: 2 + next(4) }, () => empty(60 + next(60)))
      const shape = space(1 + next(3), 4 + next(8))
      const whole = repair(shape, workers, 1)
      const begun = workers.map((worker, i) => ({
        ...worker,
        holds: homeOf(whole.load[i].filter(() => next(2) === 0)),
      }))
      expect(carriedOut(begun, repair(shape, begun, 1))).toEqual(carriedOut(workers, whole))
    }
  })

  it('keep what they have: one that comes back is used again and moves nothing', () => {
    const holds = [{ layer: 1, experts: [0, 1, 2, 3] }]
    const both = [
      { holds, slots: 9, leaving: false },
      { holds, slots: 9, leaving: false },
    ]
    expect(repair(space(1, 4), both, 1)).toEqual({ load: [[], []], unload: [[], []], homeless: [] })
  })

  it('share with one that came later and has room, in proportion to memory, and it is done once', () => {
    const shape = space(4, 16)
    const [full] = repair(shape, [empty(64)], 1).load.map(homeOf)
    const first = { holds: full, slots: 64, leaving: false }
    const joined = [first, empty(64)]
    const decided = repair(shape, joined, 1)
    expect(decided.load[0]).toEqual([])
    expect(decided.load[1].length).toBeGreaterThan(24)
    expect(decided.load[1].length).toBeLessThanOrEqual(32)
    expect(settled(shape, carriedOut(joined, decided), 1)).toBe(true)
    expect(sizes(repair(shape, [first, empty(0)], 1))).toEqual([0, 0])
  })

  it('are left with their few experts where the balance gave them few', () => {
    const few = { holds: [1, 2, 3, 4].map((layer) => ({ layer, experts: [0] })), slots: 64, leaving: false }
    const rest = { ...few, holds: few.holds.map(({ layer }) => ({ layer, experts: [1, 2, 3, 4, 5, 6, 7] })) }
    expect(sizes(repair(space(4, 8), [few, rest], 1))).toEqual([0, 0])
  })

  it('take over what a leaving worker holds, and it is dealt nothing', () => {
    const leaving = { holds: [{ layer: 1, experts: [0, 2] }], slots: 9, leaving: true }
    const { load } = repair(space(1, 4), [leaving, empty(9)], 1)
    // What nobody holds comes first.
    expect(load.map((experts) => experts.map(({ expert }) => expert))).toEqual([[], [1, 3, 0, 2]])
  })

  it('drop a second replica for an expert without a first, and for nothing less', () => {
    const full = (experts: number[]) => ({ holds: [{ layer: 1, experts }], slots: 2, leaving: false })
    const [one, other] = [full([0, 1]), full([1, 2])]
    expect(repair(space(1, 4), [one, other], 2)).toEqual({
      load: [[{ layer: 1, expert: 3 }], []],
      unload: [[{ layer: 1, expert: 1 }], []],
      homeless: [],
    })
    expect(repair(space(1, 3), [one, other], 2)).toEqual({ load: [[], []], unload: [[], []], homeless: [] })
  })

  it('cover all that fits, in any state: never over memory, never twice in one place, never the last replica dropped', () => {
    for (let seed = 1; seed < 400; seed += 1) {
      const next = seeded(seed)
      const shape = space(1 + next(3), 1 + next(6))
      const needed = shape.layers.length * shape.experts
      const all = shape.layers.flatMap((layer) =>
        Array.from({ length: shape.experts }, (_, expert) => ({ layer, expert })),
      )
      const workers = Array.from({ length: 1 + next(5) }, (): Standing => {
        const holds = homeOf(all.filter(() => next(3) === 0))
        const slots = expertsOf(holds).length + next(needed)
        return { holds, slots, leaving: next(5) === 0 }
      })
      const wanted = 1 + next(3)
      const decided = repair(shape, workers, wanted)
      const after = carriedOut(workers, decided)
      const [before, then] = [replicasOf(workers), replicasOf(after)]
      for (const [i, { holds, slots, leaving }] of after.entries()) {
        const experts = expertsOf(holds).length
        expect(experts).toBeLessThanOrEqual(slots)
        expect(experts).toBe(expertsOf(workers[i].holds).length + decided.load[i].length - decided.unload[i].length)
        if (leaving) expect([decided.load[i], decided.unload[i]]).toEqual([[], []])
      }
      for (const each of before.keys()) expect(then.get(each)).toBeGreaterThan(0)
      const homeless = new Set(decided.homeless.map(key))
      for (const each of all) expect(then.has(key(each))).toBe(!homeless.has(key(each)))
      const staying = after.filter(({ leaving }) => !leaving)
      const free = staying.filter(({ holds, slots }) => expertsOf(holds).length < slots)
      if (homeless.size > 0) expect(free).toEqual([])
      // Where memory is left, what has too few replicas is already there.
      for (const [each, count] of then) {
        if (count >= wanted) continue
        for (const { holds } of free) expect(expertsOf(holds).map(key)).toContain(each)
      }
      expect(settled(shape, after, wanted)).toBe(true)
    }
  })
})

describe('a worker that may not hold some experts', () => {
  const shape = space(2, 8)
  const forbids = ({ layer }: Expert): boolean => layer === 2

  it('is dealt the others, where there is room elsewhere', () => {
    const workers = [{ ...empty(16), forbids }, empty(16)]
    const { load, homeless } = repair(shape, workers, 2)
    expect(homeless).toEqual([])
    expect(load[0]).toHaveLength(8)
    expect(load[0].some(forbids)).toBe(false)
    expect(load[1]).toHaveLength(16)
    expect(settled(shape, workers, 2)).toBe(true)
  })

  it('is not given copies of them because it came late', () => {
    const full = homeOf(shape.layers.flatMap((layer) => Array.from({ length: 8 }, (_, expert) => ({ layer, expert }))))
    const { load } = repair(
      shape,
      [
        { ...empty(16), forbids },
        { ...empty(16), holds: full },
      ],
      1,
    )
    expect(load[0].some(forbids)).toBe(false)
  })

  it('is dealt them once where nobody else has room', () => {
    const { load, homeless } = repair(shape, [{ ...empty(16), forbids }, empty(4)], 2)
    expect(homeless).toEqual([])
    const held = [...load[0], ...load[1]].filter(forbids).map(key)
    expect(new Set(held).size).toBe(8)
    expect(held).toHaveLength(8)
  })
})
