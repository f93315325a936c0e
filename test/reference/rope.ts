import type { RopePositions, RopeScaling } from '../../shared/model/config.ts'

/** cos and sin of a row's rotation angles, [d/2] each, times yarn's attention factor. */
export type Turn = { cos: Float32Array; sin: Float32Array }

/** Transformers works in fp32 tensors, where a scalar is rounded before it is used and 2π / x is x⁻¹ · 2π. */
const { fround } = Math

/** θ^(2i/d), i < d/2, with transformers' fp32 roundings of exponent and power. */
const periods = (theta: number, dim: number): number[] =>
  Array.from({ length: dim / 2 }, (_, i) => fround(fround(theta) ** fround((2 * i) / dim)))

const yarn = (plain: number[], theta: number, dim: number, scaling: RopeScaling & { kind: 'yarn' }): number[] => {
  // The dimension that turns `turns` times over the original context (arXiv:2309.00071, appendix A.1).
  const dimensionOf = (turns: number) =>
    (dim * Math.log(scaling.originalPositions / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  let low = dimensionOf(scaling.betaFast)
  let high = dimensionOf(scaling.betaSlow)
  if (scaling.truncate) [low, high] = [Math.floor(low), Math.ceil(high)]
  low = Math.max(low, 0)
  high = Math.min(high, dim - 1)
  if (low === high) high += 0.001
  return plain.map((period, i) => {
    const ramp = Math.min(Math.max(fround(fround(i - fround(low)) / fround(high - low)), 0), 1)
    const keep = fround(1 - ramp)
    const stretched = fround(1 / fround(fround(scaling.factor) * period))
    return fround(stretched * fround(1 - keep)) + fround(fround(1 / period) * keep)
  })
}

const llama3 = (frequency: number, scaling: RopeScaling & { kind: 'llama3' }): number => {
  const factor = fround(scaling.factor)
  const wavelength = fround(fround(1 / frequency) * fround(2 * Math.PI))
  if (wavelength > scaling.originalPositions / scaling.lowFactor) return frequency / factor
  if (wavelength < scaling.originalPositions / scaling.highFactor) return frequency
  const turns = fround(fround(1 / wavelength) * scaling.originalPositions)
  const smooth = fround(fround(turns - fround(scaling.lowFactor)) / fround(scaling.highFactor - scaling.lowFactor))
  return fround(fround(fround(1 - smooth) * frequency) / factor) + fround(smooth * frequency)
}

/** Rotation per position of each pair, [d/2], in a sequence of `length` tokens (of no matter but to dynamic scaling). */
export const frequencies = ({ theta, dim, scaling }: RopePositions, length: number): Float32Array => {
  const plain = periods(theta, dim)
  switch (scaling.kind) {
    case 'none':
      return Float32Array.from(plain, (period) => 1 / period)
    case 'linear':
      return Float32Array.from(plain, (period) => fround(1 / period) / fround(scaling.factor))
    case 'dynamic': {
      if (length <= scaling.maxPositions) return Float32Array.from(plain, (period) => 1 / period)
      // The length is a tensor there, and with it the new θ.
      const longer = fround(fround(fround(scaling.factor) * length) / scaling.maxPositions)
      const stretch = fround(longer - fround(scaling.factor - 1))
      return Float32Array.from(periods(theta * fround(stretch ** (dim / (dim - 2))), dim), (period) => 1 / period)
    }
    case 'yarn':
      return Float32Array.from(yarn(plain, theta, dim, scaling))
    case 'llama3':
      return Float32Array.from(plain, (period) => llama3(fround(1 / period), scaling))
  }
}

/**
 * The rotation of the row at `position`, in a sequence whose prompt has `promptLength` tokens. Dynamic scaling takes the
 * length the sequence has when the row is first computed, so the chunks a prompt is cut into change nothing.
 */
export const turnAt = (positions: RopePositions, position: number, promptLength: number): Turn => {
  const { scaling } = positions
  const attentionFactor = scaling.kind === 'yarn' ? fround(scaling.attentionFactor) : 1
  const angles = frequencies(positions, Math.max(promptLength, position + 1)).map((frequency) => frequency * position)
  return {
    cos: angles.map((angle) => fround(Math.cos(angle)) * attentionFactor),
    sin: angles.map((angle) => fround(Math.sin(angle)) * attentionFactor),
  }
}

/** Rotates the d values of x that start at `at`, in place. arXiv:2104.09864. */
export const rotate = (x: Float32Array, at: number, turn: Turn, layout: RopePositions['layout']): void => {
  const half = turn.cos.length
  for (let i = 0; i < half; i++) {
    const [first, second] = layout === 'half' ? [at + i, at + half + i] : [at + 2 * i, at + 2 * i + 1]
    const [a, b] = [x[first], x[second]]
    x[first] = a * turn.cos[i] - b * turn.sin[i]
    x[second] = b * turn.cos[i] + a * turn.sin[i]
  }
}
