import { describe, expect, it } from 'vitest'
import {
  allFinite,
  equalRows,
  finiteRows,
  NO_ROWS,
  pickRows,
  placeRows,
  roomLike,
  rowBytes,
  storeRows,
  type TokenRows,
} from '../../../shared/model/rows.ts'
import { seeded } from '../../support/random.ts'

const BYTES: TokenRows = { rows: new Uint8Array(0), rowScale: new Float32Array(0) }
const NOT_FINITE = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]

const stored = (values: Float32Array, hidden: number, kind: TokenRows): TokenRows => {
  const into = roomLike(kind, values.length / hidden, hidden)
  storeRows(values, into, hidden, 0)
  return into
}

describe('rows of bytes', () => {
  it('differ from what was stored by half a step at most, the largest value of a row and zero not at all', () => {
    const next = seeded(1)
    for (let round = 0; round < 200; round++) {
      const [count, hidden] = [1 + next(5), 1 + next(40)]
      const size = 10 ** (next(60) - 30)
      const values = Float32Array.from({ length: count * hidden }, () => (next(5) > 0 ? (next(2001) - 1000) * size : 0))
      const { rows, rowScale } = stored(values, hidden, BYTES)
      for (let at = 0; at < values.length; at++) {
        const scale = rowScale?.[Math.floor(at / hidden)] ?? Number.NaN
        const value = ((rows[at] - 128) * scale) / 127
        const exact = values[at] === 0 || Math.abs(values[at]) === scale
        // Quotient and product, up to 127 levels, are rounded to fp32, and may come to lie on the other side of a half.
        expect(Math.abs(value - values[at])).toBeLessThanOrEqual(exact ? 0 : (scale / 254) * (1 + 254 * 2 ** -23))
      }
    }
  })

  it('are the same wherever the row stands and whatever stands beside it', () => {
    const next = seeded(2)
    const hidden = 37
    const values = Float32Array.from({ length: 8 * hidden }, () => next(2001) - 1000)
    const whole = stored(values, hidden, BYTES)
    for (let row = 0; row < 8; row++) {
      const alone = stored(values.slice(row * hidden, (row + 1) * hidden), hidden, BYTES)
      expect(equalRows(alone, pickRows(whole, [row], hidden))).toBe(true)
    }
  })

  it.each(NOT_FINITE)('tell that a value was %s, at every place', (bad) => {
    for (let at = 0; at < 11; at++) {
      const values = new Float32Array(22).fill(3e38)
      values[at] = bad
      const { rows, rowScale } = stored(values, 11, BYTES)
      expect(finiteRows({ rows, rowScale })).toBe(false)
      expect(Number.isFinite(rowScale?.[0])).toBe(false)
      expect(rowScale?.[1]).toBe(Math.fround(3e38))
    }
  })
})

it('rows of floats are stored as they are', () => {
  const values = Float32Array.of(1, -2, 1e-40, 3e38)
  expect(stored(values, 2, NO_ROWS)).toEqual({ rows: values, rowScale: null })
})

describe.each([NO_ROWS, BYTES])('rows', (kind) => {
  it('that were picked and put back in their places are the same, and count their bytes', () => {
    const next = seeded(3)
    const [count, hidden] = [9, 6]
    const rows = stored(
      Float32Array.from({ length: count * hidden }, () => next(100) - 50),
      hidden,
      kind,
    )
    const order = [...Array(count).keys()].sort(() => next(3) - 1)
    const picked = pickRows(rows, order, hidden)
    const back = roomLike(kind, count, hidden)
    placeRows(picked, back, hidden, (i) => order[i])
    expect(equalRows(back, rows)).toBe(true)
    expect(equalRows(picked, rows)).toBe(order.every((row, i) => row === i))
    expect(rowBytes(rows)).toBe(count * (kind === NO_ROWS ? 4 * hidden : hidden + 4))
  })
})

describe('allFinite', () => {
  it.each(NOT_FINITE)('finds %s at every position', (bad) => {
    for (let at = 0; at < 11; at += 1) {
      const values = new Float32Array(11).fill(3e38)
      expect(allFinite(values)).toBe(true)
      values[at] = bad
      expect(allFinite(values)).toBe(false)
    }
  })
})
