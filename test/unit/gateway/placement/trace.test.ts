import { describe, expect, test } from 'vitest'
import { openMetrics } from '../../../../services/gateway/metrics.ts'
import { readTrace, zipf } from '../../../../services/gateway/placement/trace.ts'
import type { EngineReport } from '../../../../services/gateway/port.ts'
import { seeded } from '../../../support/random.ts'

const faults = { hedged: 0, failed: 0, ejected: 0, lost: 0, audited: 0, lied: 0 }
const counts = { waiting: 0, running: 0, preempted: 0, workers: [], counts: faults }
const space = { layers: [1, 2], experts: 4 }

describe('zipf', () => {
  test('shares sum to topK, none is above 1, and they fall with rank as asked', () => {
    for (const [experts, topK, s] of [
      [64, 6, 1.2],
      [8, 2, 0],
      [8, 8, 3],
      [24, 4, 2],
    ]) {
      const load = zipf({ layers: [0, 3], experts }, topK, s, seeded(1))
      expect(Object.keys(load)).toEqual(['0', '3'])
      for (const shares of [load[0], load[3]]) {
        const sorted = [...shares].sort((a, b) => b - a)
        expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(topK, 9)
        expect(sorted[0]).toBeLessThanOrEqual(1)
        const capped = sorted.findIndex((share) => share < 1)
        if (capped >= 0) expect(sorted[experts - 1] / sorted[capped]).toBeCloseTo(((capped + 1) / experts) ** s, 9)
      }
    }
  })

  test('layers differ, seeds differ, and one seed gives one load', () => {
    const draw = (seed: number) => zipf({ layers: [0, 1], experts: 64 }, 6, 1.2, seeded(seed))
    expect(draw(1)).toEqual(draw(1))
    expect(draw(1)).not.toEqual(draw(2))
    expect(draw(1)[0]).not.toEqual(draw(1)[1])
  })
})

describe('a recorded trace', () => {
  test('is a page of metrics, rows of all workers and gateways added up', async () => {
    const pages = [5, 7].map((rows) => {
      const metrics = openMetrics('a "model"')
      const times = { bytes: 0 } as unknown as EngineReport['times']
      const report = { steps: 1, rows: 1, cacheShare: 0, times, ...counts }
      metrics.report({ ...report, expertRows: { a: [[], [rows]], b: [[], [0, 0, 3]] } })
      metrics.report({ ...report, expertRows: { c: [[], [rows, 0, 3]] } })
      return metrics.registry.metrics()
    })
    const text = (await Promise.all(pages)).join('\n')
    expect(readTrace(text, space)).toEqual([undefined, [24, 0, 12, 0]])
  })

  test.each([
    ['with a heading', 'layer,expert,rows\n1,0,5\n2,3,7\n1,0,1\n'],
    ['with remarks and spaces', '# mine\n 1, 0, 6 \n\n2,3,7'],
    ['as JSON lines', '{"layer": 1, "expert": 0, "rows": 6}\n{"layer":2,"expert":3,"rows":7,"more":1}\n'],
  ])('is lines of numbers %s', (_, text) => {
    expect(readTrace(text, space)).toEqual([undefined, [6, 0, 0, 0], [0, 0, 0, 7]])
  })

  test.each([
    ['', 'counts no rows'],
    ['layer,expert,rows', 'counts no rows'],
    ['expertmesh_steps_total{} 4', 'counts no rows'],
    ['1,0,5\n1,0', 'line 2 of the trace is "1,0", but a trace is'],
    ['1,0,5\n1,0,-5', 'line 2'],
    ['1,0,5\n1,,5', 'line 2'],
    ['{"layer": 1, "expert": "0", "rows": 3}', 'line 1'],
    ['{"layer": 1', 'line 1'],
    ['1,4,5', '(layer 1, expert 4), which the model lacks'],
    ['0,1,5', '(layer 0, expert 1), which the model lacks'],
    ['1,0.5,5', 'which the model lacks'],
  ])('%j is refused with its line and the cure', (text, sentence) => {
    expect(() => readTrace(text, space)).toThrow(sentence)
  })
})
