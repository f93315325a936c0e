import { describe, expect, it } from 'vitest'
import { merge, split } from '../../../services/worker/split.ts'
import type { ExpertFrame } from '../../../shared/model/experts.ts'
import { roomLike, type TokenRows } from '../../../shared/model/rows.ts'
import { seeded } from '../../support/random.ts'

const HIDDEN = 5

const randomFrame = (next: (limit: number) => number, int8: boolean): ExpertFrame => {
  const [rowCount, assignments] = [1 + next(8), 1 + next(30)]
  const values = Float32Array.from({ length: rowCount * HIDDEN }, () => next(200))
  return {
    layer: 2,
    rowCount,
    hidden: HIDDEN,
    rows: int8 ? Uint8Array.from(values) : values,
    rowScale: int8 ? Float32Array.from({ length: rowCount }, () => next(100)) : null,
    rowIndex: Uint32Array.from({ length: assignments }, () => next(rowCount)),
    expert: Uint32Array.from({ length: assignments }, () => next(12)).sort(),
  }
}

/** What stands in for experts: each adds its own number to the row and to its scale. Works on a frame or on a part of it. */
const plainExperts = (frame: ExpertFrame): TokenRows => {
  const { rows, rowScale, rowIndex, expert } = frame
  const results = roomLike(frame, expert.length, HIDDEN)
  for (const [i, row] of rowIndex.entries()) {
    for (let h = 0; h < HIDDEN; h += 1) results.rows[i * HIDDEN + h] = rows[row * HIDDEN + h] + expert[i]
    if (results.rowScale) results.rowScale[i] = (rowScale?.[row] ?? 0) + expert[i] * 1000
  }
  return results
}

describe.each([false, true])('a frame cut by thread (int8: %s)', (int8) => {
  it('gives the same rows in the same order after merging', () => {
    const next = seeded(3)
    for (let round = 0; round < 200; round += 1) {
      const frame = randomFrame(next, int8)
      const lanes = 1 + next(4)
      const parts = split(frame, (expert) => (expert * 7) % lanes)
      const done = parts.map((part) => ({
        positions: part.positions ?? Uint32Array.from(frame.expert.keys()),
        rows: plainExperts(part.frame),
      }))
      expect(merge(done, frame.expert.length, HIDDEN)).toEqual(plainExperts(frame))
    }
  })

  it('sends each part its own experts, ascending, and each row once', () => {
    const next = seeded(4)
    for (let round = 0; round < 200; round += 1) {
      for (const { lane, frame } of split(randomFrame(next, int8), (expert) => expert % 3)) {
        expect([...frame.expert].every((expert) => expert % 3 === lane)).toBe(true)
        expect([...frame.expert]).toEqual([...frame.expert].sort((a, b) => a - b))
        expect(frame.rows.length).toBe(frame.rowCount * HIDDEN)
        expect(Math.max(...frame.rowIndex)).toBeLessThan(frame.rowCount)
      }
    }
  })
})

it('a frame for one thread is not copied', () => {
  const frame = randomFrame(seeded(5), false)
  expect(split(frame, () => 1)).toEqual([{ lane: 1, frame, positions: null }])
  expect(split(frame, () => 1)[0].frame).toBe(frame)
})

it('an expert that is not here stops the whole frame', () => {
  const refuse = (): number => {
    throw new RangeError('not here')
  }
  expect(() => split(randomFrame(seeded(6), false), refuse)).toThrow(RangeError)
})
