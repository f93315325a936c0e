import { describe, expect, it } from 'vitest'
import { activations, feedForward } from '../../reference/ffn.ts'
import { layerNorm, normalise, rmsNorm } from '../../reference/norm.ts'

describe('norm and FFN of the oracle', () => {
  it('divides each row by its root mean square, eps included, and multiplies by the weight', () => {
    const x = Float32Array.from([3, -1, 0, 0])
    // Row 0: mean square 5, plus eps 4 is 9. Row 1 is zero, and eps keeps it so.
    expect([...rmsNorm(x, Float32Array.from([2, 6]), 4)]).toEqual([2, -2, 0, 0].map((value) => Math.fround(value)))
    expect(rmsNorm(Float32Array.from([1e-3, 1e-3]), Float32Array.from([1, 1]), 1e-6)[0]).toBeCloseTo(Math.SQRT1_2, 6)
  })

  it('takes the mean from each row before dividing by its deviation, then adds the bias', () => {
    // Row 0: mean 1, variance 4, plus eps 5 is 9. Row 1 is constant, and the bias alone is left.
    const x = Float32Array.from([3, -1, 7, 7])
    const [weight, bias] = [Float32Array.from([3, 6]), Float32Array.from([1, -1])]
    expect([...layerNorm(x, weight, bias, 5)]).toEqual([3, -5, 1, -1])
    const norm = { placement: 'pre', eps: 5 } as const
    expect(normalise({ kind: 'layer', ...norm }, x, { norm: weight, 'norm.bias': bias }, 'norm')).toEqual(
      layerNorm(x, weight, bias, 5),
    )
    expect(normalise({ kind: 'rms', ...norm }, x, { norm: weight }, 'norm')).toEqual(rmsNorm(x, weight, 5))
  })

  it.each([
    ['relu', -2, 0],
    ['relu', 3, 3],
    ['silu', 1, 0.7310585786],
    ['gelu', 1, 0.8413447461],
    ['gelu', -2, -0.0455002639],
    ['gelu', -7, 0],
    ['gelu', 9, 9],
    ['gelu_tanh', 1, 0.8411919906],
    ['gelu_tanh', -2, -0.0454023059],
  ] as const)('%s of %d is %d', (name, x, y) => {
    expect(activations[name](x)).toBeCloseTo(y, 9)
  })

  it('adds the biases of an FFN without a gate', () => {
    const ffn = {
      up: Float32Array.from([1, 0, 0, 1]),
      'up.bias': Float32Array.from([0.5, -3]),
      down: Float32Array.from([2, -1]),
      'down.bias': Float32Array.from([0.25]),
    }
    const y = feedForward({ activation: 'relu', gated: false, bias: true }, Float32Array.from([1, 2]), ffn, 2)
    expect([...y]).toEqual([3.25])
  })

  it('gates with silu and projects down', () => {
    const ffn = { gate: Float32Array.from([1, 0]), up: Float32Array.from([0, 1]), down: Float32Array.from([2, -1]) }
    const silu = Math.log(3) * 0.75
    const y = feedForward({ activation: 'silu', gated: true, bias: false }, Float32Array.from([Math.log(3), 5]), ffn, 2)
    expect(y[0]).toBeCloseTo(silu * 5 * 2, 5)
    expect(y[1]).toBeCloseTo(silu * 5 * -1, 5)
  })
})
