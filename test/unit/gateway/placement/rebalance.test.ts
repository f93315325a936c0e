import { expect, test } from 'vitest'
import { speedsOf, type Worked } from '../../../../services/gateway/placement/rebalance.ts'

const worked = (rows: number, computeUs: number, rowsPerSecond: number): Worked => ({ rows, computeUs, rowsPerSecond })

test.each([
  ['of their work where all are as busy', [worked(100, 1000, 7), worked(200, 900, 7)], [2000 / 900]],
  [
    'measured at the start where a worker rests, though its kernels seem faster',
    [worked(400, 1000, 50), worked(100, 50, 50), worked(0, 0, 100)],
    [1, 2],
  ],
  [
    'that a resting worker has shown, not above what it did while it ran and not below what it did in all',
    [worked(400, 1000, 50), worked(200, 500, 2400), worked(200, 500, 1)],
    [1, 0.5],
  ],
  ['of the start before there was any work', [worked(0, 0, 10), worked(0, 0, 30)], [3]],
])('the speeds of workers are those %s', (_, workers, expected) => {
  const [first, ...others] = speedsOf(workers)
  expect(others).toHaveLength(expected.length)
  for (const [i, ratio] of expected.entries()) expect(others[i] / first).toBeCloseTo(ratio)
})
