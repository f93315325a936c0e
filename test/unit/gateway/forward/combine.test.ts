import { describe, expect, it } from 'vitest'
import { combine } from '../../../../services/gateway/forward/combine.ts'
import { NOBODY } from '../../../../services/gateway/forward/lot.ts'
import type { TokenRows } from '../../../../shared/model/rows.ts'
import { seeded } from '../../../support/random.ts'

const { fround } = Math

const floats = (...values: number[]): TokenRows => ({ rows: Float32Array.from(values), rowScale: null })

describe('combine', () => {
  it('adds the weighted experts, then the shared one, then the residual', () => {
    const rows = {
      sources: [floats(1, 2, 3, 4), floats(10, 20)],
      source: Uint32Array.of(1, 0, 0, 0),
      offset: Uint32Array.of(0, 2, 0, 2),
    }
    const routes = { topK: 2, weights: Float32Array.of(2, 3, 4, 5) }
    const h = Float32Array.of(1000, 2000, 3000, 4000)
    const shared = Float32Array.of(0.5, 0.25, 0.125, 0)
    expect([...combine(h, shared, routes, rows, 2)]).toEqual([1029.5, 2052.25, 3019.125, 4028])
    expect([...combine(h, null, routes, rows, 2)]).toEqual([1029, 2052, 3019, 4028])
  })

  it('rounds in the order written: small terms are lost in the residual only after they were added up', () => {
    const ulp = 2 ** -23
    const rows = { sources: [floats(ulp / 4)], source: Uint32Array.of(0), offset: Uint32Array.of(0) }
    const routes = { topK: 1, weights: Float32Array.of(1) }
    expect(combine(Float32Array.of(1), Float32Array.of(ulp / 2), routes, rows, 1)[0]).toBe(1 + ulp)
    expect(combine(Float32Array.of(1), Float32Array.of(ulp / 4), routes, rows, 1)[0]).toBe(1)
  })

  it('passes a dense layer through as its shared expert alone', () => {
    const rows = { sources: [], source: new Uint32Array(0), offset: new Uint32Array(0) }
    const routes = { topK: 0, weights: new Float32Array(0) }
    expect([...combine(Float32Array.of(1, 2), Float32Array.of(3, 4), routes, rows, 2)]).toEqual([4, 6])
  })

  it('adds nothing for an assignment that was dropped', () => {
    const rows = { sources: [floats(1, 2)], source: Uint32Array.of(NOBODY, 0), offset: Uint32Array.of(0, 0) }
    const routes = { topK: 2, weights: Float32Array.of(0, 3) }
    expect([...combine(Float32Array.of(10, 20), null, routes, rows, 2)]).toEqual([13, 26])
  })

  it('gives the bits of a plain loop for any shape and any scattering of the rows', () => {
    for (let seed = 0; seed < 300; seed++) {
      const random = seeded(seed)
      const [T, K, H, frames] = [random(6), random(9), 1 + random(40), 1 + random(4)]
      const draw = (length: number) =>
        Float32Array.from({ length }, () => (random(2 ** 24) / 2 ** 23 - 1) * 10 ** random(5))
      const [h, shared, weights] = [draw(T * H), random(3) > 0 ? draw(T * H) : null, draw(T * K)]
      const sources = Array.from({ length: frames }, (): TokenRows => {
        const rows = draw((T * K + 1) * H)
        if (seed % 2 === 0) return { rows, rowScale: null }
        return { rows: Uint8Array.from(rows, () => random(256)), rowScale: draw(T * K + 1) }
      })
      const term = (a: number, i: number): number => {
        const { rows, rowScale } = sources[source[a]]
        const value = rows[offset[a] + i]
        if (!rowScale) return fround(weights[a] * value)
        return fround(fround((weights[a] * rowScale[offset[a] / H]) / 127) * (value - 128))
      }
      const source = Uint32Array.from({ length: T * K }, () => random(frames))
      const offset = Uint32Array.from({ length: T * K }, () => random(T * K + 1) * H)
      const expected = h.map((residual, at) => {
        const [t, i] = [Math.floor(at / H), at % H]
        let sum = 0
        for (let a = t * K; a < (t + 1) * K; a++) sum = fround(sum + term(a, i))
        return residual + (shared ? fround(sum + shared[at]) : sum)
      })
      const found = combine(h, shared, { topK: K, weights }, { sources, source, offset }, H)
      expect(Buffer.from(found.buffer).equals(Buffer.from(expected.buffer)), `seed ${seed}`).toBe(true)
    }
  })
})
