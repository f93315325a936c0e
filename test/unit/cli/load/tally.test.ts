import { describe, expect, test } from 'vitest'
import type { Heard } from '../../../../services/cli/load/answer.ts'
import type { Outcome } from '../../../../services/cli/load/ask.ts'
import { openTally } from '../../../../services/cli/load/tally.ts'
import { seeded } from '../../../support/random.ts'

const outcomeOf = (gapsMs: number[], firstMs: number, more: Partial<Outcome> = {}): Outcome => {
  const lastMs = gapsMs.reduce((sum, gap) => sum + gap, firstMs)
  const heard: Heard = {
    lastId: String(gapsMs.length),
    lastIndex: gapsMs.length,
    complete: true,
    tokens: gapsMs.length + 1,
    firstMs,
    lastMs,
    gapsMs,
    ids: null,
    logitsSha256: null,
    usage: { prompt_tokens: 5, completion_tokens: gapsMs.length + 1 },
  }
  return { heard, fault: null, stopped: false, repeats: 0, resumes: 0, ...more }
}
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

describe('the tally', () => {
  test('measures from the intended start, in random cases', () => {
    const next = seeded(3)
    for (let round = 0; round < 100; round++) {
      const tally = openTally()
      const cases = Array.from({ length: 1 + next(20) }, () => ({
        intendedMs: next(1000),
        waitMs: next(500),
        gapsMs: Array.from({ length: next(6) }, () => next(90)),
      }))
      for (const { intendedMs, waitMs, gapsMs } of cases) tally.add(outcomeOf(gapsMs, intendedMs + waitMs), intendedMs)
      const gaps = cases.flatMap(({ gapsMs }) => gapsMs)
      const result = tally.result(2000)
      expect(result).toMatchObject({ durationS: 2, completed: cases.length, failed: 0, inputTokens: 5 * cases.length })
      expect(result.outputTokens).toBe(gaps.length + cases.length)
      expect(result.ttft).toMatchObject({ count: cases.length, max: Math.max(...cases.map(({ waitMs }) => waitMs)) })
      expect(result.ttft!.mean).toBeCloseTo(mean(cases.map(({ waitMs }) => waitMs)))
      const whole = cases.map(({ waitMs, gapsMs }) => waitMs + gapsMs.reduce((sum, gap) => sum + gap, 0))
      expect(result.e2el!.mean).toBeCloseTo(mean(whole))
      const many = cases.filter(({ gapsMs }) => gapsMs.length > 0)
      expect(result.tpot?.count ?? 0).toBe(many.length)
      if (many.length > 0) expect(result.tpot!.mean).toBeCloseTo(mean(many.map(({ gapsMs }) => mean(gapsMs))))
      expect(result.itl?.count ?? 0).toBe(gaps.length)
      expect(result.undisturbedGapMs).toBe(Math.max(0, ...gaps))
    }
  })

  test('what failed counts by kind with its first message, and adds to no latency or total', () => {
    const tally = openTally()
    const fault = { kind: 'refused', message: 'full', again: false } as const
    tally.add(outcomeOf([1], 1, { fault }), 0)
    tally.add(outcomeOf([1], 1, { fault: { ...fault, message: 'full again' } }), 0)
    tally.add(outcomeOf([1], 1, { fault: { ...fault, kind: 'wrong' } }), 0)
    tally.add(outcomeOf([1], 1, { fault, stopped: true }), 0)
    expect(tally.result(1000)).toMatchObject({
      completed: 0,
      failed: 3,
      stopped: 1,
      outputTokens: 0,
      ttft: null,
      errors: { refused: { count: 2, first: 'full' }, wrong: { count: 1, first: 'full' } },
    })
  })

  test('resumed streams are counted with the rest and also apart', () => {
    const tally = openTally()
    tally.add(outcomeOf([5, 900, 5], 1, { resumes: 2 }), 0)
    tally.add(outcomeOf([7, 3], 1, { repeats: 1 }), 0)
    expect(tally.result(1000)).toMatchObject({
      completed: 2,
      resumed: { streams: 1, resumes: 2, longestGapMs: 900 },
      undisturbedGapMs: 7,
      repeats: 1,
    })
    expect(tally.counts).toMatchObject({ done: 2, failed: 0, resumes: 2 })
  })
})
