import { afterAll, describe, expect, it } from 'vitest'
import type { ExpertTensor, ModelConfig, Source } from '../../../shared/model/config.ts'
import { mixedWidth } from '../../../shared/model/graph/attend.ts'
import { inputRows, linear, quantise } from '../../../shared/model/graph/linear.ts'
import { Graph } from '../../../shared/model/graph/onnx.ts'
import type { Part } from '../../../shared/model/part.ts'
import { quantiseMatrix } from '../../../shared/model/quantise.ts'
import { ropeOf } from '../../../shared/model/rope.ts'
import { float32, uint8 } from '../../../shared/model/session.ts'
import { sigmoid } from '../../reference/linear.ts'
import { rmsNorm } from '../../reference/norm.ts'
import { turnAt } from '../../reference/rope.ts'
import { axesOf, DRAWN_CONFIGS, drawConfig } from '../../support/axes.ts'
import { normals, openGraph, openPart, randomModel } from '../../support/model.ts'
import { type Multiply, plainOutput, plainProject, rowsOf } from '../../support/plain.ts'
import { seeded } from '../../support/random.ts'

const { fround } = Math
const T = 9
const SPARSE = 1
const QUANTUM = fround(1 / 127)
const ZERO = 128
/** A float within this many steps of where rounding changes may fall on either side: kernels' last bits differ. */
const EDGE = 1e-3

const roundToEven = (x: number): number => {
  const rounded = Math.round(x)
  return rounded - x === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded
}

/** int8 arithmetic in plain words: each row by its largest magnitude, products and sums of whole numbers. */
const quantiseRow = (row: Float32Array) => {
  const scale = row.reduce((most, value) => Math.max(most, Math.abs(value)), fround(1e-30))
  const steps = Array.from(row, (value) => fround(fround(value / scale) / QUANTUM))
  const edge = steps.some((step) => Math.abs(Math.abs(step % 1) - 0.5) < EDGE)
  return { scale, q: steps.map((step) => roundToEven(step) + ZERO), edge }
}

const integerSums = (q: ArrayLike<number>, weight: Int8Array, width: number): Float64Array => {
  const outs = weight.length / width
  const sums = new Float64Array(outs)
  for (let i = 0; i < width; i++)
    for (let out = 0; out < outs; out++) sums[out] += (q[i] - ZERO) * weight[i * outs + out]
  return sums
}

/** x [T,width] · matrix [out,width]ᵀ with both quantised; rows whose quantisation is not certain are added to `edges`. */
const multiplyInt8 = (x: Float32Array, matrix: Float32Array, width: number, edges: Set<number>): Float32Array => {
  const outs = matrix.length / width
  const { weight, scale } = quantiseMatrix(matrix, outs, width)
  const y = new Float32Array((x.length / width) * outs)
  for (let row = 0; row < x.length / width; row++) {
    const rows = quantiseRow(x.subarray(row * width, (row + 1) * width))
    if (rows.edge) edges.add(row)
    const sums = integerSums(rows.q, weight, width)
    for (let out = 0; out < outs; out++) y[row * outs + out] = sums[out] * fround(QUANTUM * scale[out]) * rows.scale
  }
  return y
}

const compared = { rows: 0, of: 0 }
/** Compares the rows that are certain, by the share of their largest value. */
const expectRows = (actual: Float32Array, expected: Float32Array, edges: Set<number>, tolerance = 1e-6): void => {
  expect(actual).toHaveLength(expected.length)
  const width = expected.length / T
  for (let row = 0; row < T; row++) {
    compared.of++
    if (edges.has(row)) continue
    compared.rows++
    const part = (values: Float32Array) => values.subarray(row * width, (row + 1) * width)
    const magnitude = part(expected).reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    const apart = part(actual).reduce((most, value, i) => Math.max(most, Math.abs(value - part(expected)[i])), 0)
    expect(apart).toBeLessThanOrEqual(tolerance * magnitude)
  }
}

const tensor = (rows: Float32Array, width: number) => float32(rows, [rows.length / width, width])

describe('rows', () => {
  const open = async (width: number) => {
    const g = new Graph()
    const { q, scale } = quantise(g, g.input('x', 'float32', ['T', width]))
    g.output('q', q, 'uint8', ['T', width])
    g.output('scale', scale, 'float32', ['T', 1])
    return openGraph(g)
  }

  it.each([1, 2, 7, 16, 33, 129])(
    'of %i values are quantised by their own largest magnitude, to the bit',
    async (width) => {
      const session = await open(width)
      for (const M of [1, 2, 3, 16, 65]) {
        const x = normals(M * width, M * 1000 + width).map(
          (value, i) => value * 10 ** ((Math.floor(i / width) % 9) - 4),
        )
        const { q, scale } = await session.run({ x: tensor(x, width) })
        for (let row = 0; row < M; row++) {
          const expected = quantiseRow(x.subarray(row * width, (row + 1) * width))
          expect(scale.data[row]).toBe(expected.scale)
          expect([...(q.data as Uint8Array).subarray(row * width, (row + 1) * width)]).toEqual(expected.q)
        }
      }
    },
  )

  it('reach −127 and 127, never further, and round halves to even', async () => {
    const session = await open(5)
    const halves = [1.5, 2.5, -1.5, -2.5].map((step) => step * QUANTUM)
    const { q } = await session.run({ x: tensor(Float32Array.from([...halves, 1, -8, 8, 4, 0, -4]), 5) })
    const steps = [...(q.data as Uint8Array)].map((value) => value - ZERO)
    expect(steps).toEqual([2, 2, -2, -2, 127, -127, 127, 64, 0, -64])
  })

  it('of zeros stay zero', async () => {
    const { q } = await (await open(4)).run({ x: tensor(new Float32Array(8), 4) })
    expect([...(q.data as Uint8Array)]).toEqual(Array(8).fill(ZERO))
  })
})

describe('matrices', () => {
  const open = async (width: number, outs: number, weight: Int8Array, scale: Float32Array) => {
    const g = new Graph()
    g.output('y', linear(g, inputRows(g, width, 'int8'), 'matrix', width, outs), 'float32', ['T', outs])
    return openGraph(g, { matrix: weight, 'matrix.scale': scale })
  }
  const expectIntegers = async (width: number, outs: number, q: Uint8Array, weight: Int8Array) => {
    // With these scales a result is the sum itself, as long as fp32 can hold it.
    const session = await open(width, outs, weight, new Float32Array(outs).fill(127))
    const M = q.length / width
    const { y } = await session.run({
      rows: uint8(q, [M, width]),
      scale: float32(new Float32Array(M).fill(1), [M, 1]),
    })
    for (let row = 0; row < M; row++) {
      const sums = integerSums(q.subarray(row * width, (row + 1) * width), weight, width)
      const actual = (y.data as Float32Array).subarray(row * outs, (row + 1) * outs)
      expect([...actual]).toEqual([...sums])
    }
  }

  it.each([
    [1, 1],
    [3, 5],
    [17, 31],
    [64, 33],
    [127, 16],
    [200, 70],
  ])('of %i × %i multiply in exact integers', async (width, outs) => {
    const next = seeded(width)
    for (const M of [1, 2, 5, 16, 33]) {
      const q = Uint8Array.from({ length: M * width }, () => 1 + next(255))
      const weight = Int8Array.from({ length: width * outs }, () => next(255) - 127)
      await expectIntegers(width, outs, q, weight)
    }
  })

  it('do not saturate where every product is as large as it gets', async () => {
    for (const [q, w] of [
      [255, 127],
      [1, 127],
      [255, -127],
      [1, -127],
    ])
      await expectIntegers(512, 32, new Uint8Array(3 * 512).fill(q), new Int8Array(512 * 32).fill(w))
  })

  it('take the scale of every row and of every output channel', async () => {
    const [width, outs, M] = [24, 9, 7]
    const next = seeded(5)
    const q = Uint8Array.from({ length: M * width }, () => next(256))
    const weight = Int8Array.from({ length: width * outs }, () => next(256) - 128)
    const scale = Float32Array.from({ length: outs }, (_, out) => 0.001 * 3 ** out)
    const rowScale = Float32Array.from({ length: M }, (_, row) => 1e-3 * 7 ** row)
    const session = await open(width, outs, weight, scale)
    const { y } = await session.run({ rows: uint8(q, [M, width]), scale: float32(rowScale, [M, 1]) })
    for (let row = 0; row < M; row++) {
      const sums = integerSums(q.subarray(row * width, (row + 1) * width), weight, width)
      for (let out = 0; out < outs; out++) {
        const expected = (sums[out] / 127) * scale[out] * rowScale[row]
        expect(Math.abs((y.data as Float32Array)[row * outs + out] - expected)).toBeLessThanOrEqual(
          1e-6 * Math.abs(expected),
        )
      }
    }
  })
})

const drawn = Array.from({ length: DRAWN_CONFIGS }, (_, index) => {
  const config = drawConfig(index)
  return { index, config, model: randomModel(config, index), axes: axesOf(config) }
})

/** Integer arithmetic in the place of the oracle's. Notes the rows that a last bit may quantise otherwise. */
const integers = () => {
  const edges = new Set<number>()
  const multiply: Multiply = (x, weight, width, bias) => {
    const y = multiplyInt8(x, weight, width, edges)
    return bias ? y.map((value, i) => value + bias[i % bias.length]) : y
  }
  return { edges, multiply }
}

/** Position 0, where rope leaves every row as it is: turning is no matter of precision. */
const turnsOf = (config: ModelConfig) => Array.from({ length: T }, () => turnAt(ropeOf(config), 0, 1))
const anglesOf = (config: ModelConfig) => {
  const join = (name: 'cos' | 'sin') => Float32Array.from(turnsOf(config).flatMap((turn) => [...turn[name]]))
  const dims = [1, T, ropeOf(config).dim / 2]
  return { cos: float32(join('cos'), dims), sin: float32(join('sin'), dims) }
}

/** As the output graph hands rows on: bytes and one scale each. */
const quantisedRows = (x: Float32Array, width: number) => {
  const rows = rowsOf(x, width).map(quantiseRow)
  return {
    rows: uint8(Uint8Array.from(rows.flatMap(({ q }) => q)), [rows.length, width]),
    scale: tensor(
      Float32Array.from(rows, ({ scale }) => scale),
      1,
    ),
  }
}

describe('int8 graphs do integer arithmetic where the oracle does exact arithmetic', () => {
  afterAll(() => {
    console.info(`int8: ${compared.rows} of ${compared.of} rows compared`)
    expect(compared.rows / compared.of).toBeGreaterThan(0.7)
  })

  it.each(drawn)('project: $axes', async ({ index, config, model }) => {
    const session = await openPart(model, { kind: 'project', layer: SPARSE }, 'int8')
    const h = normals(T * config.hidden, index)
    const actual = await session.run({ h: tensor(h, config.hidden), ...anglesOf(config) })
    const { edges, multiply } = integers()
    const expected = await plainProject(model, SPARSE, h, turnsOf(config), multiply)
    for (const [name, values] of Object.entries(expected)) expectRows(actual[name].data as Float32Array, values, edges)
  })

  it.each(drawn)('output: $axes', async ({ index, config, model }) => {
    const { hidden } = config
    for (const layer of config.layers.keys()) {
      const [h, mixed] = [normals(T * hidden, index), normals(T * mixedWidth(config), index + layer)]
      const session = await openPart(model, { kind: 'output', layer }, 'int8')
      const actual = await session.run({ h: tensor(h, hidden), mixed: tensor(mixed, mixedWidth(config)) })
      const { edges, multiply } = integers()
      const expected = await plainOutput(model, layer, h, mixed, multiply)
      expectRows(actual['h.out'].data as Float32Array, expected.h, edges)
      for (const name of ['affinity', 'share'] as const)
        if (expected[name]) expectRows(actual[name].data as Float32Array, expected[name], edges)
      const scales = actual.scale.data as Float32Array
      for (const [row, { q, scale, edge }] of rowsOf(expected.x, hidden).map(quantiseRow).entries()) {
        if (edge || edges.has(row)) continue
        expect([...(actual.rows.data as Uint8Array).subarray(row * hidden, (row + 1) * hidden)]).toEqual(q)
        expect(Math.abs(scales[row] / scale - 1)).toBeLessThan(1e-6)
      }
    }
  })

  it.each(drawn)('shared, expert and head: $axes', async ({ index, config, model }) => {
    const { hidden, moe } = config
    const x = normals(T * hidden, index)
    const expectFfn = async (part: Part, source: (name: ExpertTensor) => Source, share: Float32Array | null) => {
      const read = (name: ExpertTensor) => model.checkpoint.read(source(name))
      const { edges, multiply } = integers()
      const gate = multiply(x, await read('gate'), hidden)
      // The bytes that go in are given, so none of them is in doubt.
      edges.clear()
      const up = multiplyInt8(x, await read('up'), hidden, new Set())
      const inner = gate.map((value, i) => fround(value * fround(sigmoid(value))) * up[i])
      const y = multiply(inner, await read('down'), gate.length / T)
      const session = await openPart(model, part, 'int8')
      const actual = await session.run({ ...quantisedRows(x, hidden), ...(share && { share: tensor(share, 1) }) })
      const expected = share ? y.map((value, i) => value * share[Math.floor(i / hidden)]) : y
      expectRows(actual.y.data as Float32Array, expected, edges)
    }
    const expert = index % moe.experts
    await expectFfn(
      { kind: 'expert', layer: SPARSE, expert },
      (name) => model.weights.expert(SPARSE, expert, name),
      null,
    )
    for (const layer of config.layers.keys())
      if (layer !== SPARSE || moe.sharedWidth > 0) {
        const gated = layer === SPARSE && moe.sharedGate
        const share = gated ? normals(T, index).map(sigmoid) : null
        await expectFfn({ kind: 'shared', layer }, (name) => model.weights.layer(layer, `shared.${name}`), share)
      }

    const head = await openPart(model, { kind: 'head' }, 'int8')
    const { logits } = await head.run({ h: tensor(x, hidden) })
    const { edges, multiply } = integers()
    const normed = rmsNorm(x, await model.checkpoint.read(model.weights.model('norm')), config.norm.eps)
    const expected = multiply(normed, await model.checkpoint.read(model.weights.model('head')), hidden)
    expectRows(logits.data as Float32Array, expected, edges)
  })
})
