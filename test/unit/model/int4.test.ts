import { describe, expect, it } from 'vitest'
import { inputRows, linear } from '../../../shared/model/graph/linear.ts'
import { Graph } from '../../../shared/model/graph/onnx.ts'
import { BLOCK, quantiseBlocks } from '../../../shared/model/quantise.ts'
import { float32 } from '../../../shared/model/session.ts'
import { normals, openGraph } from '../../support/model.ts'

/** [out,in]: whole blocks, part of one, and a last one that is not full. */
const shapes = [
  [48, 128],
  [5, 7],
  [33, 44],
  [64, 1000],
]

/** What packed weights stand for: [out,in]. */
const unpacked = (weight: Uint8Array, scale: Float32Array, out: number, width: number): Float64Array => {
  const blocks = Math.ceil(width / BLOCK)
  return Float64Array.from({ length: out * width }, (_, i) => {
    const [row, column] = [Math.floor(i / width), i % width]
    const block = row * blocks + Math.floor(column / BLOCK)
    const place = block * BLOCK + (column % BLOCK)
    return (((weight[place >> 1] >> (place % 2 ? 4 : 0)) & 15) - 8) * scale[block]
  })
}

const largestOf = (values: Float32Array): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)

describe('a matrix in blocks of four bits', () => {
  it.each(shapes)('of %i × %i is within a step of every weight, and within half of most', (out, width) => {
    // Blocks of very different size, each to be judged by its own.
    const matrix = normals(out * width, out).map((value, i) => value * 10 ** ((Math.floor(i / BLOCK) % 13) - 6))
    const { weight, scale } = quantiseBlocks(matrix, out, width)
    const values = unpacked(weight, scale, out, width)
    const blocks = Math.ceil(width / BLOCK)
    expect(weight).toHaveLength((scale.length * BLOCK) / 2)
    let far = 0
    for (const [i, value] of values.entries()) {
      const step = Math.abs(scale[Math.floor(i / width) * blocks + Math.floor((i % width) / BLOCK)])
      expect(Math.abs(value - matrix[i])).toBeLessThan(1.2 * step)
      if (Math.abs(value - matrix[i]) > 0.51 * step) far++
    }
    expect(far / values.length).toBeLessThan(0.1)
  })

  it('keeps what has a level of its own: a block of whole steps', () => {
    const matrix = Float32Array.from({ length: 16 }, (_, i) => (i - 8) * 0.25)
    const { weight, scale } = quantiseBlocks(matrix, 1, 16)
    expect([...scale]).toEqual([0.25])
    expect([...weight]).toEqual([...[0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe], ...Array(8).fill(0x88)])
    expect(
      quantiseBlocks(
        matrix.map((value) => -value),
        1,
        16,
      ).scale[0],
    ).toBe(-0.25)
  })

  it('keeps a block of zeros, or of numbers next to nothing, zero', () => {
    const { weight, scale } = quantiseBlocks(Float32Array.from([0, 0, 7 * 2 ** -149, -(2 ** -149), 1, -1]), 3, 2)
    expect([...scale.subarray(0, 2)]).toEqual([0, 0])
    expect([...weight.subarray(0, BLOCK)]).toEqual(Array(BLOCK).fill(0x88))
    expect(scale[2]).not.toBe(0)
  })
})

const openMatrix = async (out: number, width: number) => {
  const g = new Graph()
  g.output('y', linear(g, inputRows(g, width, 'int4'), 'matrix', width, out), 'float32', ['T', out])
  const { weight, scale } = quantiseBlocks(normals(out * width, width), out, width)
  const session = await openGraph(g, { matrix: weight, 'matrix.scale': scale })
  const run = async (rows: Float32Array): Promise<Float32Array> => {
    const { y } = await session.run({ rows: float32(rows, [rows.length / width, width]) })
    return y.data as Float32Array
  }
  return { run, values: unpacked(weight, scale, out, width) }
}

/** Each block of a row as the kernel sees it: whole steps of a 127th of its largest magnitude. */
const inBytes = (row: Float32Array): Float64Array => {
  const seen = new Float64Array(row.length)
  for (let begin = 0; begin < row.length; begin += BLOCK) {
    const block = row.subarray(begin, begin + BLOCK)
    const step = largestOf(block) / 127
    for (const [i, value] of block.entries()) seen[begin + i] = Math.round(value / step) * step
  }
  return seen
}

describe('rows by a matrix in blocks of four bits', () => {
  it.each(shapes)('are sums over whole numbers: %i × %i', async (out, width) => {
    const { run, values } = await openMatrix(out, width)
    const row = normals(width, 2)
    const y = await run(row)
    const seen = inBytes(row)
    for (let r = 0; r < out; r++) {
      let [sum, size] = [0, 0]
      for (let c = 0; c < width; c++) {
        sum += seen[c] * values[r * width + c]
        size += Math.abs(seen[c] * values[r * width + c])
      }
      expect(Math.abs(y[r] - sum)).toBeLessThan(1e-6 * size)
    }
  })

  it.each(shapes)('have the same bits in any company: %i × %i', async (out, width) => {
    const rows = normals(70 * width, 3)
    const { run } = await openMatrix(out, width)
    const whole = await run(rows)
    for (const size of [1, 2, 3, 4, 5, 7, 16, 17, 63])
      for (let begin = 0; begin + size <= 70; begin += size)
        expect(await run(rows.slice(begin * width, (begin + size) * width))).toEqual(
          whole.subarray(begin * out, (begin + size) * out),
        )
  })
})
