import { describe, expect, it } from 'vitest'
import type { ModelConfig, Precision } from '../../../shared/model/config.ts'
import type { Weights } from '../../../shared/model/fill.ts'
import { mixedWidth } from '../../../shared/model/graph/attend.ts'
import { ropeOf } from '../../../shared/model/rope.ts'
import { float32 } from '../../../shared/model/session.ts'
import { axesOf, drawConfig } from '../../support/axes.ts'
import { normals, openPart, randomModel } from '../../support/model.ts'

const T = 16
const SPARSE = 1

/** Every seventh channel is an outlier. A power of two, so that at fp32 nothing changes. */
const isOutlier = (channel: number): boolean => channel % 7 === 3
const OUTLIER = 1024

/** Makes channels large on the side that makes them and small on the side that reads them. */
const compensate =
  ({ hidden, moe, denseWidth, attention }: ModelConfig) =>
  (name: string, values: Float32Array): void => {
    const scale = (factor: number, channel: (i: number) => number) => {
      for (let i = 0; i < values.length; i++) if (isOutlier(channel(i))) values[i] *= factor
    }
    const width = name.startsWith('0') ? denseWidth : name.includes('shared') ? moe.sharedWidth : moe.width
    const qLora = attention.kind === 'mla' && attention.qLora !== null ? attention.qLora : 1
    if (/(attention|ffn)\.norm$|^norm$|q\.a\.norm$/.test(name)) scale(OUTLIER, (i) => i)
    if (/attention\.(q|k|v|q\.a|kv\.a)$|(gate|up)$|router$|^head$/.test(name)) scale(1 / OUTLIER, (i) => i % hidden)
    if (/q\.b$/.test(name)) scale(1 / OUTLIER, (i) => i % qLora)
    if (/up$/.test(name)) scale(OUTLIER, (i) => Math.floor(i / hidden))
    if (/down$/.test(name)) scale(1 / OUTLIER, (i) => i % width)
  }

/** Outputs of all graphs of a model over the same inputs, by name; experts take the rows of the output graph. */
const runAll = async (model: Weights, precision: Precision) => {
  const { config } = model
  const { hidden, moe } = config
  const positions = ropeOf(config)
  const results = new Map<string, Float32Array>()
  const tensor = (values: Float32Array, width: number) => float32(values, [values.length / width, width])
  const h = tensor(normals(T * hidden, 1), hidden)
  const angles = {
    cos: new Float32Array((T * positions.dim) / 2).fill(1),
    sin: new Float32Array((T * positions.dim) / 2),
  }
  const dims = [1, T, positions.dim / 2]
  for (const layer of config.layers.keys()) {
    const project = await openPart(model, { kind: 'project', layer }, precision)
    const made = await project.run({ h, cos: float32(angles.cos, dims), sin: float32(angles.sin, dims) })
    for (const [name, { data }] of Object.entries(made)) results.set(`${layer} ${name}`, data as Float32Array)
    const output = await openPart(model, { kind: 'output', layer }, precision)
    const mixed = tensor(normals(T * mixedWidth(config), 2), mixedWidth(config))
    const { rows, scale, share, affinity, 'h.out': sum } = await output.run({ h, mixed })
    results.set(`${layer} h`, sum.data as Float32Array)
    if (affinity) results.set(`${layer} affinity`, affinity.data as Float32Array)
    if (share) results.set(`${layer} share`, share.data as Float32Array)
    const feeds = { rows, ...(scale && { scale }) }
    if (layer !== SPARSE || moe.sharedWidth > 0) {
      const shared = await openPart(model, { kind: 'shared', layer }, precision)
      results.set(`${layer} shared`, (await shared.run({ ...feeds, ...(share && { share }) })).y.data as Float32Array)
    }
    for (let expert = 0; layer === SPARSE && expert < moe.experts; expert++) {
      const session = await openPart(model, { kind: 'expert', layer, expert }, precision)
      results.set(`${layer} expert ${expert}`, (await session.run(feeds)).y.data as Float32Array)
    }
  }
  const head = await openPart(model, { kind: 'head' }, precision)
  results.set('head', (await head.run({ h })).logits.data as Float32Array)
  return results
}

/** Root mean square of the difference as a share of the root mean square. */
const apart = (actual: Float32Array, expected: Float32Array): number => {
  const size = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0))
  return size(actual.map((value, i) => value - expected[i])) / size(expected)
}

// Two of each kind of attention, with gated, plain and no shared experts among them.
const indices = [0, 1, 2, 5, 8, 12]

describe.each([
  { precision: 'int8', most: 0.03 },
  { precision: 'int4', most: 0.3 },
] as const)('weights with outlier channels that compensate each other, $precision', ({ precision, most }) => {
  it.each(indices.map((index) => ({ index, axes: axesOf(drawConfig(index)) })))(
    'are as exact as without them in every graph: $axes',
    async ({ index }) => {
      const config = { ...drawConfig(index), tied: false, moe: { ...drawConfig(index).moe, width: 23 } }
      const plain = randomModel(config, index)
      const outliers = randomModel(config, index, compensate(config))
      const exact = await runAll(plain, 'fp32')
      const [quantised, evened] = [await runAll(plain, precision), await runAll(outliers, precision)]
      for (const [name, values] of await runAll(outliers, 'fp32'))
        expect(apart(values, exact.get(name)!), `fp32 ${name}`).toBeLessThan(1e-5)
      for (const [name, values] of evened) {
        const usual = apart(quantised.get(name)!, exact.get(name)!)
        expect(usual, name).toBeLessThan(most)
        expect(apart(values, exact.get(name)!), name).toBeLessThan(1.5 * usual + 0.005)
      }
    },
  )
})
