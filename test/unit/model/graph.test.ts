import { afterAll, describe, expect, it } from 'vitest'
import type { ModelConfig } from '../../../shared/model/config.ts'
import type { Weights } from '../../../shared/model/fill.ts'
import { attentionGraph, cacheArrays, mixedWidth, queryWidth } from '../../../shared/model/graph/attend.ts'
import { ropeOf } from '../../../shared/model/rope.ts'
import { float32, int64, type Session } from '../../../shared/model/session.ts'
import { attendRows } from '../../reference/attention.ts'
import { linear, sigmoid } from '../../reference/linear.ts'
import { loadReference, type Reference } from '../../reference/model.ts'
import { turnAt } from '../../reference/rope.ts'
import { axesOf, DRAWN_CONFIGS, drawConfig } from '../../support/axes.ts'
import { normals, openGraph, openPart, randomModel } from '../../support/model.ts'
import { plainOutput, plainProject, readLayer, rowsOf } from '../../support/plain.ts'

/** Against oracle values rounded once from doubles; sums of fp32 products lie within. */
const TOLERANCE = 5e-6
const T = 9
const SPARSE = 1

const largest = new Map<string, number>()
afterAll(() => {
  for (const [graph, apart] of largest) console.info(`${graph}: at most ${apart.toExponential(1)} apart`)
})

/** Largest difference as a share of the largest value. */
const expectClose = (graph: string, actual: Float32Array, expected: Float32Array): void => {
  expect(actual).toHaveLength(expected.length)
  const magnitude = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-3)
  const apart = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0) / magnitude
  largest.set(graph, Math.max(largest.get(graph) ?? 0, apart))
  expect(apart, graph).toBeLessThan(TOLERANCE)
}

type Feeds = Parameters<Session['run']>[0]
const run = async (session: Session, feeds: Feeds): Promise<Record<string, Float32Array>> =>
  Object.fromEntries(Object.entries(await session.run(feeds)).map(([name, { data }]) => [name, data as Float32Array]))

const turnsOf = (config: ModelConfig, first = 0) =>
  Array.from({ length: T }, (_, row) => turnAt(ropeOf(config), first + row, T))

const anglesOf = (config: ModelConfig, first = 0) => {
  const turns = turnsOf(config, first)
  const join = (name: 'cos' | 'sin') =>
    float32(Float32Array.from(turns.flatMap((turn) => [...turn[name]])), [1, T, ropeOf(config).dim / 2])
  return { cos: join('cos'), sin: join('sin') }
}

/** What L tokens store: [L, heads·dim]; mla stores k alone. */
type Rows = { k: Float32Array; v?: Float32Array | undefined }

/** Rows [L, heads·dim] as the cache keeps them, [heads, capacity, dim], with other sequences' leavings behind them. */
const cached = (rows: Float32Array, { heads, dim }: { heads: number; dim: number }, capacity: number) => {
  const cache = new Float32Array(heads * capacity * dim).fill(1e4)
  rowsOf(rows, dim).forEach((row, i) => {
    cache.set(row, ((i % heads) * capacity + Math.floor(i / heads)) * dim)
  })
  return float32(cache, [1, heads, capacity, dim])
}

const maskOf = (S: number, length: number, capacity: number, window: number) => {
  const first = length - S
  const seen = (row: number, column: number) => column > first + row - window
  const mask = Float32Array.from({ length: S * capacity }, (_, i) =>
    seen(Math.floor(i / capacity), i % capacity) ? 0 : -Infinity,
  )
  return float32(mask, [S, capacity])
}

/** The attention graph over a cache: q [S,queryWidth] and rows [L,…] → [S,mixedWidth]. */
const runAttention = async (config: ModelConfig, q: Float32Array, { k, v }: Rows, window: number | null) => {
  const [array] = cacheArrays(config)
  const S = q.length / queryWidth(config)
  const L = k.length / (array.heads * array.dim)
  const capacity = 128
  const session = await openGraph(attentionGraph(config, { causal: true, mask: window === null ? 'none' : 'rows' }))
  const { mixed } = await run(session, {
    q: float32(q, [S, queryWidth(config)]),
    k: cached(k, array, capacity),
    ...(v && { v: cached(v, array, capacity) }),
    length: int64([L]),
    ...(window !== null && { mask: maskOf(S, L, capacity, window) }),
  })
  return mixed
}

/** As the oracle does it; mla's values are the first part of its keys. */
const plainAttention = ({ attention: a }: ModelConfig, q: Float32Array, { k, v }: Rows, window: number | null) => {
  const kvHeads = a.kind === 'mla' ? 1 : a.kvHeads
  const keyDim = a.kind === 'mla' ? a.kvLora + a.rope : a.headDim
  const valueDim = a.kind === 'mla' ? a.kvLora : a.headDim
  const keys = rowsOf(k, kvHeads * keyDim)
  const values = v ? rowsOf(v, kvHeads * valueDim) : keys.map((key) => key.subarray(0, valueDim))
  const shape = { heads: a.heads, kvHeads, keyDim, valueDim, scale: a.scale }
  return attendRows(q, { keys, values }, shape, { causal: true, window, bias: null })
}

const drawn = Array.from({ length: DRAWN_CONFIGS }, (_, index) => {
  const config = drawConfig(index)
  return { index, config, model: randomModel(config, index), axes: axesOf(config) }
})

const h = (config: ModelConfig, seed: number) => normals(T * config.hidden, seed)
const tensor = (rows: Float32Array, width: number) => float32(rows, [rows.length / width, width])

describe('fp32 graphs do what the oracle does', () => {
  it.each(drawn)('project: $axes', async ({ index, config, model }) => {
    const session = await openPart(model, { kind: 'project', layer: SPARSE }, 'fp32')
    const input = h(config, index)
    const first = 40 * (index % 2)
    const actual = await run(session, { h: tensor(input, config.hidden), ...anglesOf(config, first) })
    const expected = await plainProject(model, SPARSE, input, turnsOf(config, first))
    expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort())
    for (const [name, values] of Object.entries(expected)) expectClose(`project ${name}`, actual[name], values)
  })

  it.each(drawn)('attention: $axes', async ({ index, config }) => {
    const [S, L] = [2 + (index % 6), 17 + index]
    const q = normals(S * queryWidth(config), index)
    const [{ heads, dim }] = cacheArrays(config)
    const rows = { k: normals(L * heads * dim, index + 100), v: normals(L * heads * dim, index + 200) }
    const { k, v } = config.attention.kind === 'mla' ? { k: rows.k, v: undefined } : rows
    for (const window of [null, 1, 4, L + 1])
      expectClose(
        'attention',
        await runAttention(config, q, { k, v }, window),
        plainAttention(config, q, { k, v }, window),
      )
  })

  it.each(drawn)('output: $axes', async ({ index, config, model }) => {
    const { hidden } = config
    for (const layer of config.layers.keys()) {
      const input = h(config, index)
      const mixed = normals(T * mixedWidth(config), index + layer)
      const session = await openPart(model, { kind: 'output', layer }, 'fp32')
      const actual = await run(session, { h: tensor(input, hidden), mixed: tensor(mixed, mixedWidth(config)) })
      const { h: sum, x, affinity, share } = await plainOutput(model, layer, input, mixed)
      const expected = { 'h.out': sum, rows: x, ...(affinity && { affinity }), ...(share && { share }) }
      expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort())
      for (const [name, values] of Object.entries(expected)) expectClose(`output ${name}`, actual[name], values)
    }
  })

  it.each(drawn)('project, attention and output: $axes', async ({ index, config, model }) => {
    for (const layer of config.layers.keys()) {
      const expected = await expectLayer(await loadReference(model), model, layer, h(config, index + layer))
      expect(expected.affinity === null).toBe(config.layers[layer].ffn === 'dense')
    }
  })

  it.each(drawn)('shared, expert, embed and head: $axes', async ({ index, config, model }) => {
    const { hidden, moe, vocabulary } = config
    const reference = await loadReference(model)
    const x = h(config, index)
    const rows = tensor(x, hidden)
    for (const layer of config.layers.keys()) {
      const expected = reference.shared(layer, x)
      if (!expected) continue
      const gated = config.layers[layer].ffn === 'sparse' && moe.sharedGate
      const session = await openPart(model, { kind: 'shared', layer }, 'fp32')
      const share = gated ? linear(x, await readLayer(model, layer)('shared.router'), hidden).map(sigmoid) : null
      const { y } = await run(session, { rows, ...(share && { share: tensor(share, 1) }) })
      expectClose(layer === SPARSE ? 'shared' : 'dense', y, expected)
    }
    const expert = index % moe.experts
    const session = await openPart(model, { kind: 'expert', layer: SPARSE, expert }, 'fp32')
    expectClose('expert', (await run(session, { rows })).y, reference.expert(SPARSE, expert, x))

    const ids = Array.from({ length: T }, (_, i) => (i * 17 + index) % vocabulary)
    const embed = await openPart(model, { kind: 'embed' }, 'fp32')
    expect((await run(embed, { ids: int64(ids) })).h).toEqual(reference.embed(ids))
    const head = await openPart(model, { kind: 'head' }, 'fp32')
    expectClose('head', (await run(head, { h: rows })).logits, reference.head(x))
  })
})

/** One layer up to its experts, T rows of one sequence from position 0, against the oracle's whole attention. */
const expectLayer = async (reference: Reference, model: Weights, layer: number, input: Float32Array) => {
  const { config } = model
  const { hidden } = config
  const past = reference.begin(T)
  const expected = reference.attend(layer, input, past)
  const project = await openPart(model, { kind: 'project', layer }, 'fp32')
  const { q, k, v } = await run(project, { h: tensor(input, hidden), ...anglesOf(config) })
  if (v) {
    expectClose('cached k', k, Float32Array.from(past.layers[layer].keys.flatMap((row) => [...row])))
    expectClose('cached v', v, Float32Array.from(past.layers[layer].values.flatMap((row) => [...row])))
  }
  const mixed = await runAttention(config, q, { k, v }, config.layers[layer].window)
  const session = await openPart(model, { kind: 'output', layer }, 'fp32')
  const actual = await run(session, { h: tensor(input, hidden), mixed: tensor(mixed, mixedWidth(config)) })
  expectClose('layer h', actual['h.out'], expected.h)
  expectClose('layer rows', actual.rows, expected.x)
  if (expected.affinity) expectClose('layer affinity', actual.affinity, expected.affinity)
  return expected
}
