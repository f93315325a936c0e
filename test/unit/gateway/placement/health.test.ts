import { describe, expect, test } from 'vitest'
import { Health } from '../../../../services/gateway/placement/health.ts'
import { Latency } from '../../../../services/gateway/placement/latency.ts'
import { Code, MeshError } from '../../../../shared/errors.ts'
import { seeded } from '../../../support/random.ts'

describe('latency', () => {
  test('finds the line behind noisy samples, whatever it is', () => {
    for (let seed = 0; seed < 20; seed++) {
      const next = seeded(seed)
      const [fixed, each] = [next(2000) / 100, next(1000) / 1000]
      const latency = new Latency()
      for (let i = 0; i < 300; i++) {
        const assignments = 1 + next(200)
        latency.add(assignments, fixed + each * assignments + (next(200) - 100) / 1000)
      }
      for (const assignments of [1, 50, 150])
        expect(Math.abs(latency.predictMs(assignments) - (fixed + each * assignments))).toBeLessThan(0.2)
    }
  })

  test('follows a worker that changes', () => {
    const latency = new Latency()
    for (let i = 0; i < 200; i++) latency.add(4, 1)
    for (let i = 0; i < 200; i++) latency.add(4, 10)
    expect(latency.predictMs(4)).toBeGreaterThan(9)
  })

  test('expects of more work than it has seen at least its share', () => {
    const latency = new Latency()
    for (let i = 0; i < 50; i++) latency.add(4, 2)
    expect(latency.predictMs(400)).toBeCloseTo(200)
  })

  test('says nothing of the first few calls', () => {
    const latency = new Latency()
    for (let i = 0; i < 4; i++) latency.add(1, 1)
    expect(latency.known).toBe(false)
  })
})

describe('health', () => {
  const failed = (code: Code) => ({ kind: 'failed', error: new MeshError(code, '') }) as const

  test('three calls in a row that are late, short or wrong eject a worker; an answer between them does not', () => {
    const health = new Health()
    health.settle(0, { kind: 'late' }, 0)
    health.settle(0, { kind: 'answered', ms: 1, work: 1, busyUs: 1 }, 0)
    health.settle(0, failed(Code.DATA_LOSS), 0)
    health.settle(0, { kind: 'late' }, 0)
    expect(health.state).toBe('live')
    expect(health.settle(0, failed(Code.INTERNAL), 0)).toBe(true)
    expect(health.state).toBe('ejected')
  })

  test('an expert that is not held, a full queue and a call that was called off are not held against it', () => {
    const health = new Health()
    for (const code of [Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED, Code.CANCELLED])
      for (let i = 0; i < 3; i++) health.settle(0, failed(code), 0)
    health.settle(0, { kind: 'dropped' }, 0)
    expect(health.state).toBe('live')
  })

  test('trials of an ejected worker come after 250, 500 ms … 30 s, and after 250 ms again once one went well', () => {
    const health = new Health()
    health.settle(0, { kind: 'stalled' }, 0)
    let now = 0
    for (const ms of [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
      now += ms
      expect(health.trialDue(now - 1)).toBe(false)
      expect(health.trialDue(now)).toBe(true)
      health.beginTrial(now)
    }
    health.recover()
    expect(health.state).toBe('live')
    health.settle(0, { kind: 'stalled' }, now)
    expect(health.trialDue(now + 250)).toBe(true)
  })

  test('a broken stream is no matter of slowness: what was measured before says nothing of the process that comes back', () => {
    const health = new Health()
    for (let i = 0; i < 20; i++) health.settle(0, { kind: 'answered', ms: 1, work: 1, busyUs: 1 }, 0)
    health.settle(0, failed(Code.UNAVAILABLE), 0)
    expect(health.state).toBe('lost')
    health.recover()
    expect(health.latency.known).toBe(false)
  })

  test('a liar stays one', () => {
    const health = new Health()
    health.condemn()
    health.settle(0, failed(Code.UNAVAILABLE), 0)
    expect(health.state).toBe('liar')
  })
})
