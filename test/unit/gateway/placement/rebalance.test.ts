import { describe, expect, test } from 'vitest'
import { speedsOf } from '../../../../services/gateway/placement/rebalance.ts'

const ratios = (speeds: readonly number[]): number[] => speeds.map((speed) => speed / speeds[0])

describe('the speeds of workers', () => {
  test('are those of their work where all are as busy', () => {
    const speeds = speedsOf([
      { rows: 100, computeUs: 1000, rowsPerSecond: 7 },
      { rows: 200, computeUs: 900, rowsPerSecond: 7 },
    ])
    expect(ratios(speeds)[1]).toBeCloseTo(2000 / 900)
  })

  test('are those measured at the start where a worker rests, though its kernels seem faster', () => {
    const speeds = speedsOf([
      { rows: 400, computeUs: 1000, rowsPerSecond: 50 },
      { rows: 100, computeUs: 50, rowsPerSecond: 50 },
      { rows: 0, computeUs: 0, rowsPerSecond: 100 },
    ])
    expect(ratios(speeds)[1]).toBeCloseTo(1)
    expect(ratios(speeds)[2]).toBeCloseTo(2)
  })

  test('are no more than a resting worker did while it ran, and no less than it did in all, whatever was measured at the start', () => {
    const speeds = speedsOf([
      { rows: 400, computeUs: 1000, rowsPerSecond: 50 },
      { rows: 200, computeUs: 500, rowsPerSecond: 2400 },
      { rows: 200, computeUs: 500, rowsPerSecond: 1 },
    ])
    expect(ratios(speeds)[1]).toBeCloseTo(1)
    expect(ratios(speeds)[2]).toBeCloseTo(0.5)
  })

  test('are those of the start before there was any work', () => {
    const idle = { rows: 0, computeUs: 0 }
    const speeds = speedsOf([
      { ...idle, rowsPerSecond: 10 },
      { ...idle, rowsPerSecond: 30 },
    ])
    expect(ratios(speeds)[1]).toBeCloseTo(3)
  })
})
