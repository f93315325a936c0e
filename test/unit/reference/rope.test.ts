import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { RopePositions, RopeScaling } from '../../../shared/model/config.ts'
import { dot } from '../../reference/linear.ts'
import { frequencies, rotate, turnAt } from '../../reference/rope.ts'

const fixtures = join(import.meta.dirname, '..', '..', 'data', 'hf_published_fixtures.json')
const published = JSON.parse(readFileSync(fixtures, 'utf8'))
const { theta, headDim, maxPositions } = published.rope

const scalings: RopeScaling[] = [
  { kind: 'none' },
  { kind: 'linear', factor: 4 },
  { kind: 'dynamic', factor: published.rope.dynamic.factor, maxPositions },
  {
    kind: 'yarn',
    factor: published.rope.yarn.factor,
    originalPositions: maxPositions,
    betaFast: published.rope.yarn.betaFast,
    betaSlow: published.rope.yarn.betaSlow,
    truncate: true,
    attentionFactor: 0.1 * Math.log(published.rope.yarn.factor) + 1,
  },
  {
    kind: 'llama3',
    factor: published.rope.llama3.factor,
    lowFactor: published.rope.llama3.lowFactor,
    highFactor: published.rope.llama3.highFactor,
    originalPositions: maxPositions,
  },
]
const scaled = (kind: RopeScaling['kind'], layout: RopePositions['layout'] = 'half'): RopePositions => ({
  kind: 'rope',
  layout,
  dim: headDim,
  theta,
  scaling: scalings.find((scaling) => scaling.kind === kind)!,
})

/** The published numbers have five significant digits. */
const expectDigits = (actual: Float32Array, expected: number[]) => {
  expect(actual).toHaveLength(expected.length)
  const apart = expected.map((value, i) => Math.abs(actual[i] / value - 1))
  expect(Math.max(...apart)).toBeLessThan(6e-5)
}

const random = (seed: number) =>
  Float32Array.from({ length: headDim }, (_, i) => Math.sin(seed * 977 + i * i * 0.7 + i))

const turned = (x: Float32Array, positions: RopePositions, position: number, promptLength: number) => {
  const y = x.slice()
  rotate(y, 0, turnAt(positions, position, promptLength), positions.layout)
  return y
}

describe('rope of the oracle', () => {
  it('has the frequencies transformers publishes, for every scaling', () => {
    expectDigits(frequencies(scaled('none'), 1), published.rope.default)
    expectDigits(
      frequencies(scaled('linear'), 1),
      published.rope.default.map((value: number) => value / 4),
    )
    const { length, frequencies: dynamic } = published.rope.dynamic
    expectDigits(frequencies(scaled('dynamic'), length), dynamic)
    expectDigits(frequencies(scaled('yarn'), 1), published.rope.yarn.frequencies)
    expectDigits(frequencies(scaled('llama3'), 1), published.rope.llama3.frequencies)
  })

  it('rotates interleaved pairs as published', () => {
    const positions: RopePositions = { ...scaled('none', 'interleaved'), dim: 64 }
    for (const [row, expected] of published.interleaved.rows.entries()) {
      const x = Float32Array.from({ length: 64 }, (_, i) => (row * 64 + i) / 100)
      rotate(x, 0, turnAt(positions, row, 6), 'interleaved')
      for (const [i, value] of expected.entries()) expect(Math.abs(x[i] - value)).toBeLessThan(1e-4)
    }
  })

  it.each(scalings.map(({ kind }) => kind))('makes q·k depend on distance alone (%s)', (kind) => {
    for (const layout of ['half', 'interleaved'] as const) {
      const positions = scaled(kind, layout)
      const score = (q: number, k: number) =>
        dot(turned(random(1), positions, q, 4096), 0, turned(random(2), positions, k, 4096), 0, headDim)
      expect(score(107, 100)).toBeCloseTo(score(7, 0), 3)
      expect(score(1907, 1900)).toBeCloseTo(score(7, 0), 2)
      expect(Math.abs(score(8, 0) - score(7, 0))).toBeGreaterThan(0.05)
    }
  })

  it('multiplies lengths by the attention factor and leaves position 0 in place', () => {
    for (const scaling of scalings) {
      const x = random(3)
      const factor = scaling.kind === 'yarn' ? scaling.attentionFactor : 1
      const positions = scaled(scaling.kind)
      expect(turned(x, positions, 0, 1)).toEqual(x.map((value) => value * Math.fround(factor)))
      const y = turned(x, positions, 300, 301)
      expect(dot(y, 0, y, 0, headDim) / dot(x, 0, x, 0, headDim)).toBeCloseTo(factor ** 2, 5)
    }
  })

  it('gives both layouts the same result up to the order of a row', () => {
    const interleaved = random(4)
    const pairFirst = (x: Float32Array) => x.map((_, i) => x[i < headDim / 2 ? 2 * i : 2 * (i - headDim / 2) + 1])
    const half = turned(pairFirst(interleaved), scaled('none'), 77, 78)
    expect(pairFirst(turned(interleaved, scaled('none', 'interleaved'), 77, 78))).toEqual(half)
  })

  it('rotates only the dimensions it is given', () => {
    const x = random(5)
    const y = x.slice()
    rotate(y, 32, turnAt({ ...scaled('none'), dim: 64 }, 9, 10), 'half')
    expect(y.subarray(0, 32)).toEqual(x.subarray(0, 32))
    expect(y.subarray(96)).toEqual(x.subarray(96))
    expect(y.subarray(32, 96)).not.toEqual(x.subarray(32, 96))
  })

  it('scales dynamically by the prompt, then by the row itself once it lies beyond prompt and trained length', () => {
    const [plain, dynamic] = [scaled('none'), scaled('dynamic')]
    expect(turnAt(dynamic, 2047, 1000)).toEqual(turnAt(plain, 2047, 1000))
    expect(turnAt(dynamic, 2048, 1000)).not.toEqual(turnAt(plain, 2048, 1000))
    expect(turnAt(dynamic, 5, 3000)).not.toEqual(turnAt(plain, 5, 3000))
    expect(turnAt(dynamic, 2999, 3000)).toEqual(turnAt(dynamic, 2999, 1))
    expect(turnAt(dynamic, 3000, 3000)).toEqual(turnAt(dynamic, 3000, 3001))
  })
})
