import { expect, test } from 'vitest'
import { speedsOf, type Worked } from '../../../../services/gateway/placement/rebalance.ts'

const worked = (work: number, busyUs: number, rowsPerSecond: number): Worked => ({ work, busyUs, rowsPerSecond })

test.each([
  ['of their work, whatever their starts', [worked(100, 1000, 7), worked(200, 250, 7)], [8]],
  [
    'measured at the start, on the scale of the others’ work, where there was hardly any',
    [worked(400, 1000, 50), worked(4, 50, 100), worked(0, 0, 200)],
    [2, 4],
  ],
  ['that a worker with little work has shown nevertheless', [worked(400, 1000, 50), worked(200, 50, 1)], [0.5]],
  ['of the start before there was any work', [worked(0, 0, 10), worked(0, 0, 30)], [3]],
  ['of the start where nothing took any time', [worked(5, 0, 10), worked(7, 0, 30)], [3]],
])('the speeds of workers are those %s', (_, workers, expected) => {
  const [first, ...others] = speedsOf(workers)
  expect(others).toHaveLength(expected.length)
  for (const [i, ratio] of expected.entries()) expect(others[i] / first).toBeCloseTo(ratio)
})
