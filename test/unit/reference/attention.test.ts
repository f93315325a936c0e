import { describe, expect, it } from 'vitest'
import type { GqaAttention, LayerTensor, MlaAttention, RopePositions } from '../../../shared/model/config.ts'
import { gqa, mla, type Tensors } from '../../reference/attention.ts'
import { linear } from '../../reference/linear.ts'
import { turnAt } from '../../reference/rope.ts'

const hidden = 6
const tokens = 9
const positions: RopePositions = { kind: 'rope', layout: 'half', dim: 2, theta: 100, scaling: { kind: 'none' } }

const random = (seed: number, length: number) =>
  Float32Array.from({ length }, (_, i) => Math.sin(seed * 131.7 + i * 12.9898 + i * i * 0.37))

const input = (x: Float32Array, window: number | null = null, width = hidden) => ({
  x,
  hidden: width,
  turns: Array.from({ length: x.length / width }, (_, row) => turnAt(positions, row, tokens)),
  layout: positions.layout,
  sight: { causal: true, window, bias: null },
  past: { keys: [], values: [] },
})

const noBias = { q: false, k: false, v: false, o: false }
const grouped: GqaAttention = {
  kind: 'gqa',
  heads: 4,
  kvHeads: 2,
  headDim: 4,
  scale: 0.5,
  bias: noBias,
  qkNorm: 'none',
  clip: null,
}
const gqaTensors: Tensors = {
  'attention.q': random(1, 16 * hidden),
  'attention.k': random(2, 8 * hidden),
  'attention.v': random(3, 8 * hidden),
  'attention.o': random(4, hidden * 16),
}
const latent: MlaAttention = {
  kind: 'mla',
  heads: 3,
  qLora: 5,
  kvLora: 4,
  nope: 3,
  rope: 2,
  valueDim: 4,
  scale: 0.5,
  bias: false,
  eps: 1e-6,
}
const mlaTensors: Tensors = {
  'attention.q.a': random(5, 5 * hidden),
  'attention.q.a.norm': random(6, 5),
  'attention.q.b': random(7, 15 * 5),
  'attention.kv.a': random(8, 6 * hidden),
  'attention.kv.a.norm': random(9, 4),
  'attention.kv.b': random(10, 21 * 4),
  'attention.o': random(11, hidden * 12),
}
const x = random(12, tokens * hidden)

const apart = (a: Float32Array, b: Float32Array) => {
  expect(a).toHaveLength(b.length)
  return a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i])), 0)
}

/** Repeats each run of `size` values `times` times. */
const repeat = (values: Float32Array, size: number, times: number) =>
  Float32Array.from(
    { length: values.length * times },
    (_, i) => values[Math.floor(i / size / times) * size + (i % size)],
  )

/** [W | b] for rows of W [out, hidden], and x with a last column of ones: the same linear layer without a bias. */
const folded = (weight: Float32Array, bias: Float32Array) =>
  Float32Array.from({ length: bias.length * (hidden + 1) }, (_, i) => {
    const [out, column] = [Math.floor(i / (hidden + 1)), i % (hidden + 1)]
    return column === hidden ? bias[out] : weight[out * hidden + column]
  })
const withOnes = folded(x, new Float32Array(tokens).fill(1))

describe('attention of the oracle', () => {
  it('shares a key head among neighbouring query heads', () => {
    const all = { ...gqaTensors }
    for (const name of ['attention.k', 'attention.v'] as const) all[name] = repeat(gqaTensors[name]!, 4 * hidden, 2)
    expect(gqa({ ...grouped, kvHeads: 4 }, all, 1e-6, input(x))).toEqual(gqa(grouped, gqaTensors, 1e-6, input(x)))
  })

  it('never looks ahead: a prefix gives the same rows', () => {
    const prefix = x.slice(0, 4 * hidden)
    const length = prefix.length
    expect(gqa(grouped, gqaTensors, 1e-6, input(x)).slice(0, length)).toEqual(
      gqa(grouped, gqaTensors, 1e-6, input(prefix)),
    )
    expect(mla(latent, mlaTensors, input(x)).slice(0, length)).toEqual(mla(latent, mlaTensors, input(prefix)))
  })

  it('sees through a window as if the sequence had begun there', () => {
    const windowed = gqa(grouped, gqaTensors, 1e-6, input(x, 3)).slice(-hidden)
    const tail = gqa(grouped, gqaTensors, 1e-6, input(x.slice(-3 * hidden))).slice(-hidden)
    expect(apart(windowed, tail)).toBeLessThan(1e-6)
    expect(apart(windowed, gqa(grouped, gqaTensors, 1e-6, input(x)).slice(-hidden))).toBeGreaterThan(1e-3)
    expect(gqa(grouped, gqaTensors, 1e-6, input(x, tokens))).toEqual(gqa(grouped, gqaTensors, 1e-6, input(x)))
  })

  it('clips the values it mixes', () => {
    const clipped = gqa({ ...grouped, clip: 0.1 }, gqaTensors, 1e-6, input(x, 1))
    const values = linear(x, gqaTensors['attention.v']!, hidden).map((value) => Math.min(Math.max(value, -0.1), 0.1))
    expect(apart(clipped, linear(repeat(values, 4, 2), gqaTensors['attention.o']!, 16))).toBeLessThan(1e-6)
    expect(gqa({ ...grouped, clip: 1e3 }, gqaTensors, 1e-6, input(x))).toEqual(gqa(grouped, gqaTensors, 1e-6, input(x)))
  })

  it('clips queries and keys too, after their norm', () => {
    const tensors = { ...gqaTensors, 'attention.q.norm': random(20, 16), 'attention.k.norm': random(21, 8) }
    const normed: GqaAttention = { ...grouped, qkNorm: 'full' }
    const loud = (factor: number, clip: number) => {
      const scaled = { ...tensors, 'attention.v': gqaTensors['attention.v']!.map((value) => value * 1e-3) }
      for (const name of ['attention.q.norm', 'attention.k.norm'] as const)
        scaled[name] = tensors[name].map((value) => (value + 2) * factor * Math.sign(value))
      return gqa({ ...normed, clip }, scaled, 1e-6, input(x))
    }
    // Clipped hard enough, queries and keys keep nothing but their signs, however large they were.
    expect(apart(loud(1e6, 1), loud(1e7, 1))).toBeLessThan(1e-9)
    expect(apart(loud(1e6, 1), loud(1e6, 2))).toBeGreaterThan(1e-6)
  })

  it('adds the biases of grouped-query attention', () => {
    const biases: Tensors = {
      'attention.q.bias': random(22, 16),
      'attention.k.bias': random(23, 8),
      'attention.v.bias': random(24, 8),
    }
    const all: Tensors = { ...gqaTensors }
    for (const name of ['attention.q', 'attention.k', 'attention.v'] as const)
      all[name] = folded(gqaTensors[name]!, biases[`${name}.bias`]!)
    const expected = gqa(grouped, all, 1e-6, input(withOnes, null, hidden + 1))
    const biased = { ...grouped, bias: { q: true, k: true, v: true, o: false } }
    expect(apart(gqa(biased, { ...gqaTensors, ...biases }, 1e-6, input(x)), expected)).toBeLessThan(1e-6)
  })

  it('adds the biases of latent attention', () => {
    const biases: Tensors = { 'attention.q.a.bias': random(25, 5), 'attention.kv.a.bias': random(26, 6) }
    const all: Tensors = { ...mlaTensors }
    for (const name of ['attention.q.a', 'attention.kv.a'] as const satisfies LayerTensor[])
      all[name] = folded(mlaTensors[name]!, biases[`${name}.bias`]!)
    const expected = mla(latent, all, input(withOnes, null, hidden + 1))
    const o = random(27, hidden)
    const biased = mla({ ...latent, bias: true }, { ...mlaTensors, ...biases, 'attention.o.bias': o }, input(x))
    expect(
      apart(
        biased,
        expected.map((value, i) => value + o[i % hidden]),
      ),
    ).toBeLessThan(1e-6)
  })
})
