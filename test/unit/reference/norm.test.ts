import { describe, expect, it } from 'vitest'
import { feedForward } from '../../reference/ffn.ts'
import { rmsNorm } from '../../reference/norm.ts'

describe('norm and FFN of the oracle', () => {
  it('divides each row by its root mean square, eps included, and multiplies by the weight', () => {
    const x = Float32Array.from([3, -1, 0, 0])
    // Row 0: mean square 5, plus eps 4 is 9. Row 1 is zero, and eps keeps it so.
    expect([...rmsNorm(x, Float32Array.from([2, 6]), 4)]).toEqual([2, -2, 0, 0].map((value) => Math.fround(value)))
    expect(rmsNorm(Float32Array.from([1e-3, 1e-3]), Float32Array.from([1, 1]), 1e-6)[0]).toBeCloseTo(Math.SQRT1_2, 6)
  })

  it('gates with silu and projects down', () => {
    const ffn = { gate: Float32Array.from([1, 0]), up: Float32Array.from([0, 1]), down: Float32Array.from([2, -1]) }
    const silu = Math.log(3) * 0.75
    const y = feedForward({ activation: 'silu', gated: true, bias: false }, Float32Array.from([Math.log(3), 5]), ffn, 2)
    expect(y[0]).toBeCloseTo(silu * 5 * 2, 5)
    expect(y[1]).toBeCloseTo(silu * 5 * -1, 5)
  })
})
