import type { ModelConfig } from '../../../shared/model/config.ts'
import { cacheArrays, mixedWidth, queryWidth } from '../../../shared/model/graph/attend.ts'
import { ropeOf } from '../../../shared/model/rope.ts'
import { float32, int64, type Session } from '../../../shared/model/session.ts'
import { type Batch, isolate } from './batch.ts'
import type { KvCache } from './cache.ts'

/** What a layer's experts and its combine need. */
export type Attended = {
  /** [T,H] residual stream after attention. */
  h: Float32Array
  /** [T,H] normed rows as the experts take them: fp32, or uint8 with scale [T]. */
  rows: Float32Array | Uint8Array
  scale: Float32Array | null
  /** [T,E], null in dense layers. */
  affinity: Float32Array | null
  /** [T] factor of the shared experts' output, null where they are not gated. */
  share: Float32Array | null
}

export type AttendSessions = {
  project: readonly Session[]
  output: readonly Session[]
  attention: Session
  windowed: Session
}

/** Attention, residual, norm and router of one layer over a batch; appends the batch's keys and values to the cache. */
export const attend = async (
  config: ModelConfig,
  sessions: AttendSessions,
  cache: KvCache,
  layer: number,
  h: Float32Array,
  batch: Batch,
): Promise<Attended> => {
  const T = batch.rows
  const half = ropeOf(config).dim / 2
  const hidden = float32(h, [T, config.hidden])
  const angles = { cos: float32(batch.cos, [1, T, half]), sin: float32(batch.sin, [1, T, half]) }
  const { q, k, v } = await sessions.project[layer].run({ h: hidden, ...angles })
  const stored = (v ? [k, v] : [k]).map(({ data }) => data as Float32Array)
  const mixed = await mix(config, sessions, cache, layer, batch, q.data as Float32Array, stored)
  const result = await sessions.output[layer].run({ h: hidden, mixed: float32(mixed, [T, mixedWidth(config)]) })
  const data = (name: string): Float32Array | null => (result[name]?.data as Float32Array | undefined) ?? null
  return {
    h: result['h.out'].data as Float32Array,
    rows: result.rows.data as Float32Array | Uint8Array,
    scale: data('scale'),
    affinity: data('affinity'),
    share: data('share'),
  }
}

/** Attention of every sequence over its own cache: q [T,queryWidth] and the rows to store → [T,mixedWidth]. */
const mix = async (
  config: ModelConfig,
  sessions: AttendSessions,
  cache: KvCache,
  layer: number,
  batch: Batch,
  q: Float32Array,
  stored: readonly Float32Array[],
): Promise<Float32Array> => {
  const widths = stored.map((rows) => rows.length / batch.rows)
  const { window } = config.layers[layer]
  const width = mixedWidth(config)
  const [{ heads, dim }] = cacheArrays(config)
  const mixed = new Float32Array(batch.rows * width)
  for (const [i, { sequence, begin, end }] of batch.spans.entries()) {
    const { id } = sequence.request
    const first = batch.starts[i]
    const last = batch.starts[i + 1]
    const rows = stored.map((values, array) => values.subarray(first * widths[array], last * widths[array]))
    if (!isolate(batch, sequence, () => cache.append(id, layer, rows, begin))) continue
    const query = doubled(q.subarray(first * queryWidth(config), last * queryWidth(config)), last - first)
    const S = Math.max(2, last - first)
    const [k, v] = stored.map((_, array) => cache.view(id, layer, array))
    const feeds = {
      q: float32(query, [S, queryWidth(config)]),
      k: float32(k.data, [1, heads, k.capacity, dim]),
      ...(v && { v: float32(v.data, [1, heads, v.capacity, dim]) }),
      length: int64([end]),
    }
    const result =
      window === null
        ? await sessions.attention.run(feeds)
        : await sessions.windowed.run({
            ...feeds,
            mask: float32(windowMask(S, end, k.capacity, window), [S, k.capacity]),
          })
    const values = result.mixed.data as Float32Array
    mixed.set(values.subarray((S - (last - first)) * width), first * width)
  }
  return mixed
}

/**
 * One query row takes another kernel than several and differs in the last bit, so a single row runs twice and the copy is dropped:
 * decode gives the bits of prefill.
 */
const doubled = (query: Float32Array, rows: number): Float32Array => {
  if (rows > 1) return query
  const twice = new Float32Array(query.length * 2)
  twice.set(query)
  twice.set(query, query.length)
  return twice
}

/** [S,capacity] of 0 and −∞: row i is position end − S + i and sees the `window` positions up to its own. */
const windowMask = (S: number, end: number, capacity: number, window: number): Float32Array => {
  const mask = new Float32Array(S * capacity)
  for (let i = 0; i < S; i++) {
    const unseen = end - S + i - window + 1
    if (unseen > 0) mask.fill(-Infinity, i * capacity, i * capacity + unseen)
  }
  return mask
}
