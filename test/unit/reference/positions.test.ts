import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { RopePositions } from '../../../shared/model/config.ts'
import { dot } from '../../reference/linear.ts'
import { bucketOf, sinusoid } from '../../reference/positions.ts'
import { rotate, turnAt } from '../../reference/rope.ts'
import { normals } from '../../support/model.ts'

const fixtures = join(import.meta.dirname, '..', '..', 'data', 'hf_published_fixtures.json')
const { sinusoids } = JSON.parse(readFileSync(fixtures, 'utf8'))

describe('sinusoidal positions of the oracle', () => {
  it.each([
    ['marian', 0, 512, 256, 1e-3],
    ['roformer', 0, 6, 3, 1e-4],
    ['m2m100', 2, 6, 2, 1e-4],
  ] as const)('are those that transformers publishes for %s', (family, first, width, divisor, tolerance) => {
    for (const [row, expected] of sinusoids[family].rows.entries())
      for (const [i, value] of expected.entries())
        expect(Math.abs(sinusoid(first + row, width, divisor)[i] - value)).toBeLessThan(tolerance)
  })
})

/** Distances at which T5's 32 buckets up to 128 begin, computed with torch in fp32. */
const bothWays = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
const backwards = [
  ...[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
  ...[19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113],
]

describe('relative positions of the oracle', () => {
  const t5 = { kind: 'relative', buckets: 32, maxDistance: 128 } as const
  const bucketIn = (begins: number[], away: number) => begins.findLastIndex((begin) => begin <= away)

  it('fall into T5’s buckets: keys before the query, and, both ways, those after it in the other half', () => {
    for (let away = 0; away < 300; away++) {
      expect(bucketOf(-away, t5, false)).toBe(bucketIn(backwards, away))
      expect(bucketOf(-away, t5, true)).toBe(bucketIn(bothWays, away))
      if (away > 0) expect(bucketOf(away, t5, true)).toBe(16 + bucketIn(bothWays, away))
    }
  })

  it('are all the same ahead of a query that looks back', () => {
    expect(bucketOf(5, t5, false)).toBe(0)
  })
})

describe('a score by positions', () => {
  const dim = 64
  const contents = Array.from({ length: 20 }, (_, i) => ({ q: normals(dim, 2 * i), k: normals(dim, 2 * i + 1) }))
  const rope: RopePositions = { kind: 'rope', layout: 'half', dim, theta: 10_000, scaling: { kind: 'none' } }
  const unit = (x: Float32Array) => x.map((value) => value / Math.sqrt(dot(x, 0, x, 0, dim)))

  const turned = (x: Float32Array, position: number) => {
    const y = unit(x)
    rotate(y, 0, turnAt(rope, position, position + 1), rope.layout)
    return y
  }
  const added = (x: Float32Array, position: number) => {
    const row = sinusoid(position, dim, dim / 2)
    return unit(x.map((value, i) => value + row[i]))
  }
  type Place = (x: Float32Array, position: number) => Float32Array
  /** How far q·k of unit vectors at `distance` moves when both shift. */
  const drift = (place: Place, distance: number, shift: number) => {
    const moved = contents.map(({ q, k }) => {
      const score = (at: number) => dot(place(q, at + distance), 0, place(k, at), 0, dim)
      return Math.abs(score(shift) - score(0))
    })
    return Math.max(...moved)
  }
  const shifts = [1, 2, 7, 63, 128, 1000, 2047, 4096]
  const worst = (place: Place) =>
    Math.max(...[0, 1, 5, 40].flatMap((distance) => shifts.map((shift) => drift(place, distance, shift))))

  it('depends on their distance alone with rope, up to shifts of 4,096, and not with sinusoids added', () => {
    expect(worst(turned)).toBeLessThan(1e-5)
    expect(worst(added)).toBeGreaterThan(0.15)
    console.info(`rope ${worst(turned).toExponential(1)}, sinusoids ${worst(added).toFixed(2)}`)
  })
})
