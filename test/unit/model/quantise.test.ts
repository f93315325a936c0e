import { describe, expect, it } from 'vitest'
import {
  columnSizes,
  divideRows,
  equalise,
  quantiseMatrix,
  rowSizes,
  scaleColumns,
  transpose,
} from '../../../shared/model/quantise.ts'
import { linear } from '../../reference/linear.ts'
import { normals } from '../../support/model.ts'

const shapes = [
  [1, 1],
  [1, 40],
  [40, 1],
  [31, 33],
  [32, 64],
  [65, 7],
  [100, 129],
]

describe('transpose', () => {
  it.each(shapes)('of %i × %i has every number where its row and column meet', (rows, columns) => {
    const matrix = normals(rows * columns, rows)
    const turned = transpose(matrix, rows, columns)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) expect(turned[c * rows + r]).toBe(matrix[r * columns + c])
    expect(transpose(turned, columns, rows)).toEqual(matrix)
  })
})

describe('a quantised matrix', () => {
  it.each(shapes)('of %i × %i is within half a step of every weight', (out, width) => {
    // Channels of very different size, each to be judged by its own.
    const matrix = normals(out * width, out).map((value, i) => value * 10 ** ((Math.floor(i / width) % 13) - 6))
    const { weight, scale } = quantiseMatrix(matrix, out, width)
    expect(scale).toHaveLength(out)
    for (let r = 0; r < out; r++) {
      const row = matrix.subarray(r * width, (r + 1) * width)
      const largest = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      expect(scale[r]).toBe(Math.fround(largest / 127))
      for (let c = 0; c < width; c++) {
        const step = weight[c * out + r]
        expect(Math.abs(step)).toBeLessThanOrEqual(127)
        expect(Math.abs(step * scale[r] - row[c])).toBeLessThanOrEqual((0.5 + 1e-5) * scale[r])
      }
    }
  })

  it('gives the largest weights of a channel the outermost steps', () => {
    const { weight, scale } = quantiseMatrix(Float32Array.from([127, -127, 1, 0, -0.5, 0.125]), 2, 3)
    expect([...weight]).toEqual([127, 0, -127, -127, 1, 32])
    expect([...scale]).toEqual([1, Math.fround(0.5 / 127)])
  })

  it('keeps a channel of zeros, or of numbers next to nothing, zero', () => {
    const { weight, scale } = quantiseMatrix(Float32Array.from([0, 0, 190 * 2 ** -149, -(2 ** -149), 1, -1]), 3, 2)
    expect([...weight]).toEqual([0, 0, 127, 0, 0, -127])
    expect([...scale.subarray(0, 2)]).toEqual([0, 0])
    expect(scale[2]).toBe(Math.fround(1 / 127))
  })
})

describe('sizes', () => {
  it.each(shapes)('of %i × %i are root mean squares of rows and of columns', (rows, columns) => {
    const matrix = normals(rows * columns, rows + 1)
    const size = (values: number[]) => Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / values.length)
    const row = (r: number) => [...matrix.subarray(r * columns, (r + 1) * columns)]
    const column = (c: number) => Array.from({ length: rows }, (_, r) => matrix[r * columns + c])
    for (const [r, value] of rowSizes(matrix, columns).entries()) expect(value).toBeCloseTo(size(row(r)), 12)
    for (const [c, value] of columnSizes(matrix, columns).entries()) expect(value).toBeCloseTo(size(column(c)), 12)
    expect(rowSizes(matrix, columns)).toHaveLength(rows)
    expect(columnSizes(matrix, columns)).toHaveLength(columns)
  })
})

describe('equalised channels', () => {
  const ones = (length: number) => new Float64Array(length).fill(1)

  it('are none where no channel stands out', () => {
    expect(
      equalise(
        Float64Array.from(normals(64, 1), (x) => 4 + x),
        ones(64),
      ),
    ).toBeNull()
    expect(equalise(Float64Array.from([1, 1, 1, 64]), ones(4))).toBeNull()
    expect(equalise(new Float64Array(5), ones(5))).toBeNull()
  })

  it('are the outliers alone, each by a power of two that brings both sides to the same size', () => {
    const producer = Float64Array.from(normals(40, 2), (x) => 2 + Math.tanh(x))
    const consumer = Float64Array.from(normals(40, 3), (x) => 3 + Math.tanh(x))
    for (const [channel, size] of [
      [3, 300],
      [17, 1 / 300],
      [39, 1e6],
    ]) {
      producer[channel] *= size
      consumer[channel] /= size
    }
    const factors = equalise(producer, consumer)!
    for (const [channel, factor] of factors.entries()) {
      expect(Number.isInteger(Math.log2(factor))).toBe(true)
      expect(factor === 1, `channel ${channel}`).toBe(![3, 17, 39].includes(channel))
      const ratio = producer[channel] / consumer[channel] / factor ** 2
      expect(ratio).toBeGreaterThan(1 / 10)
      expect(ratio).toBeLessThan(10)
    }
    expect(factors[3]).toBeGreaterThan(64)
    expect(factors[17]).toBeLessThan(1 / 64)
  })

  it('leave dead channels alone, on either side', () => {
    const factors = equalise(Float64Array.from([1, 0, 1e6, 1, 1]), Float64Array.from([1, 1, 1, 0, 1]))
    expect(factors).toEqual(Float32Array.from([1, 1, 1024, 1, 1]))
  })

  it('change no bit of the product', () => {
    const [rows, channels, outs] = [5, 33, 9]
    const producer = normals(channels * 12, 4).map((value, i) => (Math.floor(i / 12) % 7 === 2 ? value * 900 : value))
    const consumer = normals(outs * channels, 5).map((value, i) => ((i % channels) % 7 === 2 ? value / 900 : value))
    const factors = equalise(rowSizes(producer, 12), columnSizes(consumer, channels))
    expect(factors?.filter((factor) => factor !== 1).length).toBe(5)
    const x = normals(rows * 12, 6)
    const product = () => linear(linear(x, producer, 12), consumer, channels)
    const before = product()
    expect(divideRows(producer, factors)).toBe(producer)
    expect(scaleColumns(consumer, factors)).toBe(consumer)
    expect(product()).toEqual(before)
  })

  it('without factors leave a matrix as it is', () => {
    const matrix = normals(6, 7)
    expect(divideRows(matrix, null)).toEqual(normals(6, 7))
    expect(scaleColumns(matrix, null)).toEqual(normals(6, 7))
  })
})
