import { describe, expect, it } from 'vitest'
import type { RopePositions, RopeScaling } from '../../../shared/model/config.ts'
import { openRope } from '../../../shared/model/rope.ts'
import { turnAt } from '../../reference/rope.ts'
import { seeded } from '../../support/random.ts'

const { fround } = Math

const turned = (positions: RopePositions, position: number, promptLength: number) => {
  const half = positions.dim / 2
  const [cos, sin] = [new Float32Array(half), new Float32Array(half)]
  openRope(positions).write(position, promptLength, cos, sin, 0)
  return { cos, sin }
}

const yarn = { kind: 'yarn', betaFast: 32, betaSlow: 1, truncate: true, attentionFactor: 1 } as const
const scalings: [string, RopeScaling][] = [
  ['none', { kind: 'none' }],
  ['linear', { kind: 'linear', factor: 4 }],
  ['linear by a fraction', { kind: 'linear', factor: 2.7 }],
  ['dynamic', { kind: 'dynamic', factor: 4, maxPositions: 64 }],
  ['dynamic by a fraction', { kind: 'dynamic', factor: 1.3, maxPositions: 1000 }],
  ['yarn', { ...yarn, factor: 40, originalPositions: 4096, attentionFactor: 0.1 * Math.log(40) + 1 }],
  ['yarn of a short context', { ...yarn, factor: 8, originalPositions: 64 }],
  ['yarn without truncation', { ...yarn, factor: 32, originalPositions: 4096, truncate: false }],
  ['yarn with one step', { ...yarn, factor: 32, originalPositions: 4096, betaFast: 1, betaSlow: 1 }],
  ['llama3', { kind: 'llama3', factor: 8, lowFactor: 1, highFactor: 4, originalPositions: 8192 }],
  ['llama3 of a short context', { kind: 'llama3', factor: 3, lowFactor: 1, highFactor: 4, originalPositions: 32 }],
]

const shapes = [
  { dim: 128, theta: 10_000 },
  { dim: 64, theta: 1e6 },
  { dim: 24, theta: 50_000 },
  { dim: 6, theta: 500_000 },
]

describe.each(scalings)('angles with scaling %s', (_, scaling) => {
  const cases = shapes.map(({ dim, theta }): RopePositions => ({ kind: 'rope', layout: 'half', dim, theta, scaling }))

  it('are the oracle’s to the bit, at any position of any prompt', () => {
    const next = seeded(7)
    for (const positions of cases)
      for (let round = 0; round < 80; round++) {
        const position = next(10 ** (1 + next(5)))
        const promptLength = 1 + next(10 ** (1 + next(4)))
        const [actual, expected] = [
          turned(positions, position, promptLength),
          turnAt(positions, position, promptLength),
        ]
        expect(actual, `position ${position} of ${promptLength}`).toEqual(expected)
      }
  })
})

describe('rows', () => {
  it('are written where they belong, whatever was written before', () => {
    const positions: RopePositions = { kind: 'rope', layout: 'half', dim: 8, theta: 100, scaling: { kind: 'none' } }
    const rope = openRope(positions)
    const [cos, sin] = [new Float32Array(3 * 4), new Float32Array(3 * 4)]
    for (const [row, position] of [5, 0, 5].entries()) rope.write(position, 6, cos, sin, row)
    expect(cos.subarray(4, 8)).toEqual(Float32Array.from([1, 1, 1, 1]))
    expect(cos.subarray(0, 4)).toEqual(cos.subarray(8, 12))
    expect(cos.subarray(0, 4)).toEqual(turnAt(positions, 5, 6).cos)
    expect(sin.subarray(8, 12)).toEqual(turnAt(positions, 5, 6).sin)
  })
})

describe('dynamic scaling', () => {
  const plain: RopePositions = { kind: 'rope', layout: 'half', dim: 16, theta: 10_000, scaling: { kind: 'none' } }
  const dynamic: RopePositions = { ...plain, scaling: { kind: 'dynamic', factor: 2, maxPositions: 100 } }

  it('is none up to the trained length', () => {
    expect(turned(dynamic, 99, 100)).toEqual(turned(plain, 99, 100))
    expect(turned(dynamic, 3, 7)).toEqual(turned(plain, 3, 7))
  })

  it('turns all rows of a long prompt by the prompt’s length', () => {
    expect(turned(dynamic, 3, 101)).not.toEqual(turned(plain, 3, 101))
    expect(turned(dynamic, 3, 150)).not.toEqual(turned(dynamic, 3, 101))
    const stretch = (2 * 150) / 100 - 1
    const stretched = { ...plain, theta: 10_000 * stretch ** (16 / 14) }
    const [actual, expected] = [turned(dynamic, 42, 150), turned(stretched, 42, 150)]
    for (const [i, value] of expected.cos.entries()) expect(actual.cos[i]).toBeCloseTo(value, 5)
  })

  it('rounds the new base as torch does, whose length is a tensor', () => {
    const scaling = { kind: 'dynamic', factor: 4, maxPositions: 64 } as const
    for (const [length, theta] of [
      [65, 10_635.2294921875],
      [87, 24_722.169921875],
      [1000, 634_868.6875],
    ])
      expect(turned({ ...plain, dim: 128, scaling }, length - 1, 1)).toEqual(
        turned({ ...plain, dim: 128, theta }, length - 1, 1),
      )
  })

  it('turns a row beyond prompt and trained length by its own length', () => {
    expect(turned(dynamic, 149, 1)).toEqual(turned(dynamic, 149, 150))
    expect(turned(dynamic, 120, 150)).not.toEqual(turned(dynamic, 120, 1))
  })

  it('remembers no prompt for another', () => {
    const rope = openRope(dynamic)
    const write = (position: number, promptLength: number) => {
      const [cos, sin] = [new Float32Array(8), new Float32Array(8)]
      rope.write(position, promptLength, cos, sin, 0)
      return { cos, sin }
    }
    for (const [position, promptLength] of [
      [5, 10],
      [5, 200],
      [5, 300],
      [5, 200],
      [5, 10],
      [250, 10],
      [250, 300],
    ])
      expect(write(position, promptLength)).toEqual(turned(dynamic, position, promptLength))
  })

  it('at length 150 stretches the slowest pair as worked by hand', () => {
    // θ' = 10⁴ · 2^(16/14); the last pair turns by θ'^(−14/16) = 10^(−3.5) / 2 per position.
    const { sin } = turned(dynamic, 1, 150)
    expect(sin[7]).toBeCloseTo(Math.sin(fround(10 ** -3.5 / 2)), 10)
  })
})
