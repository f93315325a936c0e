import { describe, expect, it } from 'vitest'
import type { ModelConfig, Precision } from '../../../shared/model/config.ts'
import { queryWidth } from '../../../shared/model/graph/attend.ts'
import { gatewayParts, type Part } from '../../../shared/model/part.ts'
import { float32, type Session, uint8 } from '../../../shared/model/session.ts'
import { normals, openPart, randomModel } from '../../support/model.ts'
import { axesOfStacks, DRAWN_STACKS, drawStacks } from '../../support/stacks.ts'

/** Of the largest value: what rows and columns of so few channels lose to 8 bits. */
const TOLERANCE = 0.05
const T = 7

/** Channels that are large where a norm makes them and small where they are read, so that conversion evens them out. */
const OUTLIER = 1024
const compensate =
  ({ hidden }: ModelConfig) =>
  (name: string, values: Float32Array): void => {
    const scale = (factor: number) => {
      for (let i = 0; i < values.length; i++) if ((i % hidden) % 7 === 3) values[i] *= factor
    }
    if (/norm(\.bias)?$/.test(name) && !/embed/.test(name)) scale(OUTLIER)
    if (/(attention|cross)\.(q|k|v)$|(gate|up)$|router$|^head$/.test(name)) scale(1 / OUTLIER)
  }

const quantised = (x: Float32Array, width: number) => {
  const scales = Float32Array.from({ length: T }, (_, row) =>
    x.subarray(row * width, (row + 1) * width).reduce((most, value) => Math.max(most, Math.abs(value)), 0),
  )
  const q = Uint8Array.from(x, (value, i) => 128 + Math.round((value / scales[Math.floor(i / width)]) * 127))
  return { rows: uint8(q, [T, width]), scale: float32(scales, [T, 1]) }
}

const feedsOf = (
  config: ModelConfig,
  part: Part,
  precision: Precision,
  seed: number,
): Parameters<Session['run']>[0] => {
  const { hidden } = config
  const x = normals(T * hidden, seed)
  if (part.kind === 'shared' || part.kind === 'expert')
    return precision === 'int8' ? quantised(x, hidden) : { rows: float32(x, [T, hidden]) }
  const h = float32(x, [T, hidden])
  if (part.kind !== 'cross' && part.kind !== 'output') return { h }
  return { h, mixed: float32(normals(T * queryWidth(config), seed + 1), [T, queryWidth(config)]) }
}

const drawn = Array.from({ length: DRAWN_STACKS }, (_, index) => {
  const config = drawStacks(index)
  return { index, config, axes: axesOfStacks(config) }
})

describe('int8 graphs of an encoder–decoder come close to those of fp32, outliers evened out', () => {
  it.each(drawn)('$axes', async ({ index, config }) => {
    // Where norms come last, rows go on as they are, and there is nothing to even out.
    const model = randomModel(config, index, config.norm.placement === 'pre' ? compensate(config) : undefined)
    const experts: Part[] = [1, 3].map((layer) => ({ kind: 'expert', layer, expert: 1 }))
    const others = gatewayParts(config).filter(({ kind }) => kind !== 'embed' && kind !== 'place' && kind !== 'shared')
    const parts = config.norm.placement === 'pre' ? others : [...others, ...experts]
    for (const part of parts) {
      const run = async (precision: Precision) =>
        (await openPart(model, part, precision)).run(feedsOf(config, part, precision, index))
      const [exact, close] = [await run('fp32'), await run('int8')]
      for (const [name, { data }] of Object.entries(exact)) {
        if (name === 'rows') continue
        const expected = data as Float32Array
        const actual = close[name].data as Float32Array
        const most = expected.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-3)
        const apart = actual.reduce((largest, value, i) => Math.max(largest, Math.abs(value - expected[i])), 0)
        expect(apart / most, `${part.kind} ${name}`).toBeLessThan(TOLERANCE)
      }
    }
  })
})
