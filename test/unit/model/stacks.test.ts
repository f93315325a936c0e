import { describe, expect, it } from 'vitest'
import type { ModelConfig } from '../../../shared/model/config.ts'
import type { Weights } from '../../../shared/model/fill.ts'
import { attentionGraph, queryWidth, type Sight } from '../../../shared/model/graph/attend.ts'
import { float32, int64, type Session } from '../../../shared/model/session.ts'
import { inEncoder } from '../../../shared/model/tensors.ts'
import { attendRows, crossKeys, type KeyValues, type Tensors } from '../../reference/attention.ts'
import { loadReference, sightOf } from '../../reference/model.ts'
import { sinusoid } from '../../reference/positions.ts'
import { readWeights } from '../../reference/weights.ts'
import { normals, openGraph, openPart, randomModel } from '../../support/model.ts'
import { rowsOf } from '../../support/plain.ts'
import { axesOfStacks, DRAWN_STACKS, drawStacks } from '../../support/stacks.ts'

/** Against oracle values rounded once from doubles; sums of fp32 products lie within. */
const TOLERANCE = 5e-6
const T = 7
const CAPACITY = 128

/** Largest difference as a share of the largest value. */
const expectClose = (what: string, actual: Float32Array, expected: Float32Array): void => {
  expect(actual).toHaveLength(expected.length)
  const magnitude = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-3)
  const apart = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0) / magnitude
  expect(apart, what).toBeLessThan(TOLERANCE)
}

type Feeds = Parameters<Session['run']>[0]
const run = async (session: Session, feeds: Feeds): Promise<Record<string, Float32Array>> =>
  Object.fromEntries(Object.entries(await session.run(feeds)).map(([name, { data }]) => [name, data as Float32Array]))
const tensor = (rows: Float32Array, width: number) => float32(rows, [rows.length / width, width])
const joined = (rows: readonly Float32Array[]) => Float32Array.from(rows.flatMap((row) => [...row]))

/** Rows [L, heads·dim] as an attention takes them, [heads, capacity, dim], with other sequences' leavings behind them. */
const cached = (rows: readonly Float32Array[], heads: number, dim: number) => {
  const cache = new Float32Array(heads * CAPACITY * dim).fill(1e4)
  rows.forEach((row, i) => {
    for (let head = 0; head < heads; head++)
      cache.set(row.subarray(head * dim, (head + 1) * dim), (head * CAPACITY + i) * dim)
  })
  return float32(cache, [1, heads, CAPACITY, dim])
}

type Bias = (head: number, query: number, key: number) => number

/** The attention graph over rows: q [S,queryWidth] → [S,mixedWidth]. */
const runAttention = async (
  config: ModelConfig,
  q: Float32Array,
  past: KeyValues,
  causal: boolean,
  bias: Bias | null,
) => {
  const { attention: a } = config
  if (a.kind !== 'gqa') throw new Error('only gqa')
  const sight: Sight = { causal, mask: bias ? 'heads' : 'none' }
  const session = await openGraph(attentionGraph(config, sight))
  const S = q.length / queryWidth(config)
  const L = past.keys.length
  const mask = Float32Array.from({ length: a.heads * S * CAPACITY }, (_, i) => {
    const key = i % CAPACITY
    const head = Math.floor(i / CAPACITY / S)
    return bias && key < L ? bias(head, L - S + (Math.floor(i / CAPACITY) % S), key) : 0
  })
  const { mixed } = await run(session, {
    q: tensor(q, queryWidth(config)),
    k: cached(past.keys, a.kvHeads, a.headDim),
    v: cached(past.values, a.kvHeads, a.headDim),
    length: int64([L]),
    ...(bias && { mask: float32(mask, [1, a.heads, S, CAPACITY]) }),
  })
  return mixed
}

const drawn = Array.from({ length: DRAWN_STACKS }, (_, index) => {
  const config = drawStacks(index)
  return { index, config, model: randomModel(config, index), axes: axesOfStacks(config) }
})

describe('fp32 graphs of an encoder–decoder do what the oracle does', () => {
  it.each(drawn)('attention: $axes', async ({ index, config }) => {
    const { attention: a } = config
    if (a.kind !== 'gqa') return
    const [S, L] = [2 + (index % 5), 11 + index]
    const q = normals(S * queryWidth(config), index)
    const draw = (seed: number) => rowsOf(normals(L * a.kvHeads * a.headDim, seed), a.kvHeads * a.headDim)
    const past = { keys: draw(index + 100), values: draw(index + 200) }
    const shape = { ...a, keyDim: a.headDim, valueDim: a.headDim }
    const bias: Bias = (head, query, key) => Math.sin(head * 7 + (key - query) * 3)
    for (const causal of [true, false])
      for (const added of [null, bias]) {
        const expected = attendRows(q, past, shape, { causal, window: null, bias: added })
        expectClose(`attention ${causal} ${added}`, await runAttention(config, q, past, causal, added), expected)
      }
  })

  it.each(drawn)('attention gives the same bits in any cut of its queries: $axes', async ({ index, config }) => {
    const { attention: a } = config
    if (a.kind !== 'gqa') return
    const L = 20 + index
    const q = normals(L * queryWidth(config), index)
    const draw = (seed: number) => rowsOf(normals(L * a.kvHeads * a.headDim, seed), a.kvHeads * a.headDim)
    const past = { keys: draw(index + 100), values: draw(index + 200) }
    const bias: Bias = (head, _, key) => Math.sin(head * 7 + key * 3)
    for (const added of [null, bias]) {
      const whole = await runAttention(config, q, past, false, added)
      for (const step of [2, 3, 7]) {
        const cut: Float32Array[] = []
        for (let at = 0; at < L; at += step) {
          const rows = rowsOf(q, queryWidth(config)).slice(at, at + step)
          const doubled = rows.length === 1 ? [...rows, ...rows] : rows
          const mixed = await runAttention(config, joined(doubled), past, false, added)
          cut.push(...rowsOf(mixed, queryWidth(config)).slice(-rows.length))
        }
        expect(joined(cut)).toEqual(whole)
      }
    }
  })

  it.each(drawn)('a layer, its attentions and the norm that ends it: $axes', async ({ index, config, model }) => {
    for (const layer of config.layers.keys()) await expectLayer(model, layer, index)
  })

  it.each(drawn)('FFN, expert, embedding, positions and head: $axes', async ({ index, config, model }) => {
    const { hidden, moe, vocabulary } = config
    const reference = await loadReference(model)
    const x = normals(T * hidden, index)
    for (const [layer, { ffn }] of config.layers.entries()) {
      const expected = reference.shared(layer, x)
      if (expected) {
        const session = await openPart(model, { kind: 'shared', layer }, 'fp32')
        expectClose('shared', (await run(session, { rows: tensor(x, hidden) })).y, expected)
      }
      if (ffn === 'dense') continue
      const expert = index % moe.experts
      const session = await openPart(model, { kind: 'expert', layer, expert }, 'fp32')
      expectClose('expert', (await run(session, { rows: tensor(x, hidden) })).y, reference.expert(layer, expert, x))
    }
    const ids = Array.from({ length: T }, (_, i) => (i * 17 + index) % vocabulary)
    const embed = await openPart(model, { kind: 'embed' }, 'fp32')
    const { h } = await run(embed, { ids: int64(ids) })
    for (const stack of ['encoder', 'decoder'] as const)
      expectClose(
        'embedding',
        await placed(model, h, stack),
        reference.embed(ids, 3, stack === 'encoder' ? 'encoder.' : ''),
      )
    const head = await openPart(model, { kind: 'head' }, 'fp32')
    expectClose('head', (await run(head, { h: tensor(x, hidden) })).logits, reference.head(x))
  })
})

/** Embeddings h [T,H] with the positions from 3 on. */
const placed = async (model: Weights, h: Float32Array, stack: 'encoder' | 'decoder'): Promise<Float32Array> => {
  const { hidden, positions: p, embedding } = model.config
  if (p.kind === 'relative' && !embedding.norm) return h
  const session = await openPart(model, { kind: 'place', stack }, 'fp32')
  const at = Array.from({ length: T }, (_, row) => 3 + row)
  const position =
    p.kind === 'sinusoidal'
      ? tensor(joined(at.map((n) => sinusoid(n + p.first, hidden, p.divisor))), hidden)
      : p.kind === 'learned'
        ? int64(at.map((n) => n + p.first))
        : null
  return (await run(session, { h: tensor(h, hidden), ...(position && { position }) }))['h.out']
}

/** One layer up to its experts, and what ends it, T rows from position 0, against the oracle's whole attention. */
const expectLayer = async (model: Weights, layer: number, index: number) => {
  const { config } = model
  const { hidden, attention } = config
  if (attention.kind !== 'gqa') throw new Error('only gqa')
  const reference = await loadReference(model)
  const { layers, model: tables } = await readWeights(model)
  const input = normals(T * hidden, index + layer)
  const source = normals(9 * hidden, index + layer + 50)
  const seen = seenBy(model, layers[layer].tensors, reference.finish(source, 'encoder.'), layer)
  const past = { ...reference.begin(T), source: config.layers.map(() => seen) }
  const expected = reference.attend(layer, input, past)

  const h = tensor(input, hidden)
  const project = await openPart(model, { kind: 'project', layer }, 'fp32')
  const { q, k, v } = await run(project, { h })
  const own = {
    keys: rowsOf(k, attention.kvHeads * attention.headDim),
    values: rowsOf(v, attention.kvHeads * attention.headDim),
  }
  expectClose('k', k, joined(past.layers[layer].keys))
  const sight = sightOf(config, layer, tables[inEncoder(config, layer) ? 'encoder.positions' : 'positions'])
  let mixed = await runAttention(config, q, own, sight.causal, sight.bias)
  let residual = h
  if (seen) {
    const cross = await openPart(model, { kind: 'cross', layer }, 'fp32')
    const after = await run(cross, { h, mixed: tensor(mixed, queryWidth(config)) })
    const part = await openPart(model, { kind: 'source', layer }, 'fp32')
    const rows = await run(part, { h: tensor(source, hidden) })
    expectClose('source k', rows.k, joined(seen.keys))
    expectClose('source v', rows.v, joined(seen.values))
    residual = tensor(after['h.out'], hidden)
    mixed = await runAttention(config, after.q, seen, false, null)
  }
  const output = await openPart(model, { kind: 'output', layer }, 'fp32')
  const actual = await run(output, { h: residual, mixed: tensor(mixed, queryWidth(config)) })
  expectClose('h', actual['h.out'], expected.h)
  expectClose('rows', actual.rows, expected.x)
  if (expected.affinity) expectClose('affinity', actual.affinity, expected.affinity)
  if (config.norm.placement === 'pre') return
  const settle = await openPart(model, { kind: 'settle', layer }, 'fp32')
  expectClose('settled', (await run(settle, { h }))['h.out'], reference.settle(layer, input))
}

const seenBy = ({ config }: Weights, tensors: Tensors, rows: Float32Array, layer: number): KeyValues | null => {
  if (inEncoder(config, layer) || config.attention.kind !== 'gqa') return null
  return crossKeys(config.attention, tensors, rows, config.hidden)
}
