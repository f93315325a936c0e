import assert from 'node:assert/strict'
import type { ModelConfig, RopePositions, RopeScaling } from './config.ts'

/**
 * Angles of rotary position embeddings (Su et al. 2021), with transformers' roundings (modeling_rope_utils.py): frequencies and angles
 * are fp32 numbers.
 */
export type Rope = {
  /**
   * Writes cos and sin [d/2] of one position into row `row` of cos and sin [T,d/2]. promptLength matters to dynamic scaling alone, which
   * turns the row at position p by the frequencies of length max(promptLength, p + 1): a function of the sequence, not of chunking.
   */
  write(position: number, promptLength: number, cos: Float32Array, sin: Float32Array, row: number): void
}

/** Every step of a formula rounds as it does in transformers, which computes in fp32 tensors: far positions multiply a last bit. */
const { fround } = Math

/** Rows of angles kept; recomputing one is cheap, so the bound only caps memory. */
const ROWS_KEPT_MAX = 1 << 16

/** The positions of a model that has rotary ones; any other is a broken invariant. */
export const ropeOf = ({ positions }: ModelConfig): RopePositions => {
  assert(positions.kind === 'rope', `positions are ${positions.kind}, not rope`)
  return positions
}

export const openRope = ({ dim, theta, scaling }: RopePositions): Rope => {
  const half = dim / 2
  const base = frequencies(dim, theta)
  const fixed = scaling.kind === 'dynamic' ? base : scale(base, dim, theta, scaling)
  const factor = scaling.kind === 'yarn' ? fround(scaling.attentionFactor) : 1
  const kept = new Map<string, { cos: Float32Array; sin: Float32Array }>()

  const angles = (position: number, length: number): { cos: Float32Array; sin: Float32Array } => {
    const id = `${position}/${length}`
    let row = kept.get(id)
    if (!row) {
      const inverse = length > 0 && scaling.kind === 'dynamic' ? stretched(dim, theta, scaling, length) : fixed
      const turns = inverse.map((f) => fround(f * position))
      row = {
        cos: turns.map((t) => fround(Math.cos(t)) * factor),
        sin: turns.map((t) => fround(Math.sin(t)) * factor),
      }
      if (kept.size >= ROWS_KEPT_MAX) kept.clear()
      kept.set(id, row)
    }
    return row
  }

  return {
    write(position, promptLength, cos, sin, row) {
      const length = Math.max(promptLength, position + 1)
      // Up to maxPositions dynamic scaling is none, so rows are shared by all prompts.
      const found = angles(position, scaling.kind === 'dynamic' && length > scaling.maxPositions ? length : 0)
      cos.set(found.cos, row * half)
      sin.set(found.sin, row * half)
    },
  }
}

/** θ^(2i/d), i < d/2. */
const periods = (dim: number, theta: number): Float32Array =>
  Float32Array.from({ length: dim / 2 }, (_, i) => fround(theta) ** fround((2 * i) / dim))

const frequencies = (dim: number, theta: number): Float32Array => periods(dim, theta).map((period) => 1 / period)

const stretched = (
  dim: number,
  theta: number,
  { factor, maxPositions }: RopeScaling & { kind: 'dynamic' },
  length: number,
): Float32Array => {
  const stretch = fround(fround(fround(fround(factor) * length) / maxPositions) - fround(factor - 1))
  return frequencies(dim, theta * fround(stretch ** (dim / (dim - 2))))
}

const scale = (base: Float32Array, dim: number, theta: number, scaling: RopeScaling): Float32Array => {
  switch (scaling.kind) {
    case 'none':
    case 'dynamic':
      return base
    case 'linear':
      return base.map((f) => f / fround(scaling.factor))
    case 'yarn':
      return yarn(dim, theta, scaling)
    case 'llama3':
      return base.map((f) => llama3(f, scaling))
  }
}

/** YaRN (Peng et al. 2023, arXiv:2309.00071 §3.2): slow frequencies are interpolated, fast ones kept, a ramp between. */
const yarn = (dim: number, theta: number, s: RopeScaling & { kind: 'yarn' }): Float32Array => {
  const dimensionAt = (rotations: number): number =>
    (dim * Math.log(s.originalPositions / (rotations * 2 * Math.PI))) / (2 * Math.log(theta))
  const begin = dimensionAt(s.betaFast)
  const end = dimensionAt(s.betaSlow)
  const low = Math.max(s.truncate ? Math.floor(begin) : begin, 0)
  let high = Math.min(s.truncate ? Math.ceil(end) : end, dim - 1)
  if (low === high) high += 0.001
  return periods(dim, theta).map((period, i) => {
    const ramp = fround(fround(i - fround(low)) / fround(high - low))
    const kept = fround(1 - Math.min(Math.max(ramp, 0), 1))
    const interpolated = fround(1 / fround(fround(s.factor) * period))
    return fround(interpolated * fround(1 - kept)) + fround(fround(1 / period) * kept)
  })
}

const llama3 = (f: number, s: RopeScaling & { kind: 'llama3' }): number => {
  const factor = fround(s.factor)
  const wavelength = fround(fround(1 / f) * fround(2 * Math.PI))
  if (wavelength > s.originalPositions / s.lowFactor) return f / factor
  if (wavelength < s.originalPositions / s.highFactor) return f
  const rotations = fround(fround(1 / wavelength) * s.originalPositions)
  const smooth = fround(fround(rotations - fround(s.lowFactor)) / fround(s.highFactor - s.lowFactor))
  return fround(fround(fround(1 - smooth) * f) / factor) + fround(smooth * f)
}
