import assert from 'node:assert/strict'
import type { ModelConfig } from '../../../shared/model/config.ts'
import { cacheArrays, mixedWidth, queryWidth } from '../../../shared/model/graph/attend.ts'
import { float32, int64, type Session, type Tensor } from '../../../shared/model/session.ts'
import { inEncoder } from '../../../shared/model/tensors.ts'
import type { Span } from '../batch/schedule.ts'
import { type Batch, isolate, spanRows } from './batch.ts'
import type { KvCache } from './cache.ts'
import type { Relative } from './relative.ts'
import { scatterRows } from './rows.ts'
import { scratch } from './scratch.ts'
import { sourceId } from './source.ts'

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
  /** Of the decoder's layers where there is an encoder. */
  cross: readonly (Session | null)[]
  output: readonly Session[]
  attention: Session
  windowed: Session
  /** Where every row sees all; null without an encoder. */
  whole: Session | null
  /** Those two with a bias for each distance, null where positions are not relative. */
  relative: { causal: Session; whole: Session; encoder: Relative; decoder: Relative } | null
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
  let hidden = float32(h, [T, config.hidden])
  const half = batch.cos.length / T
  const angles = half > 0 && { cos: float32(batch.cos, [1, T, half]), sin: float32(batch.sin, [1, T, half]) }
  const { q, k, v } = await sessions.project[layer].run({ h: hidden, ...angles })
  const stored = (v ? [k, v] : [k]).map(({ data }) => data as Float32Array)
  const mix = batch.stack === 'encoder' ? mixEncoder : mixCached
  let mixed = await mix(config, sessions, cache, layer, batch, q.data as Float32Array, stored)
  const cross = sessions.cross[layer]
  if (cross) {
    const own = await cross.run({ h: hidden, mixed: float32(mixed, [T, mixedWidth(config)]) })
    scratch.give(mixed)
    hidden = own['h.out']
    mixed = await mixSource(config, sessions, cache, layer, batch, own.q.data as Float32Array)
  }
  const result = await sessions.output[layer].run({ h: hidden, mixed: float32(mixed, [T, mixedWidth(config)]) })
  scratch.give(mixed)
  const data = (name: string): Float32Array | null => (result[name]?.data as Float32Array | undefined) ?? null
  return {
    h: result['h.out'].data as Float32Array,
    rows: result.rows.data as Float32Array | Uint8Array,
    scale: data('scale'),
    affinity: data('affinity'),
    share: data('share'),
  }
}

/** Keys and values of one sequence (mla: the keys serve as both), [heads,capacity,dim], and how many rows are valid. */
type Seen = { arrays: readonly Float32Array[]; capacity: number; length: number }

/** Attention of every sequence over its own cache: q [T,queryWidth] and the rows to store → [T,mixedWidth]. */
const mixCached = async (
  config: ModelConfig,
  sessions: AttendSessions,
  cache: KvCache,
  layer: number,
  batch: Batch,
  q: Float32Array,
  stored: readonly Float32Array[],
): Promise<Float32Array> => {
  const { window } = config.layers[layer]
  const { relative } = sessions
  const kept = layer - (config.encoder?.layers ?? 0)
  return mixSpans(config, batch, q, async ({ sequence, beam: { id }, begin, end }, i, look) => {
    const rows = spanRows(batch, i, stored)
    if (!isolate(batch, sequence, () => cache.append(id, kept, rows, begin))) return
    const seen = viewed(cache, id, kept, stored.length, end)
    if (relative) await inCuts(config, seen, begin, end - begin, true, relative.causal, relative.decoder, look)
    else if (window === null) await look(sessions.attention, seen, 0, end - begin, null)
    else {
      const S = Math.max(2, end - begin)
      const mask = float32(windowMask(S, end, seen.capacity, window), [S, seen.capacity])
      await look(sessions.windowed, seen, 0, end - begin, mask)
    }
  })
}

const viewed = (cache: KvCache, id: string, layer: number, arrays: number, length: number): Seen => {
  const views = Array.from({ length: arrays }, (_, array) => cache.view(id, layer, array))
  return { arrays: views.map(({ data }) => data), capacity: views[0].capacity, length }
}

/** Attention of whole sources, each row to all of its source's. */
const mixEncoder = async (
  config: ModelConfig,
  sessions: AttendSessions,
  _cache: KvCache,
  layer: number,
  batch: Batch,
  q: Float32Array,
  stored: readonly Float32Array[],
): Promise<Float32Array> => {
  const { relative, whole } = sessions
  assert(inEncoder(config, layer) && whole)
  return mixSpans(config, batch, q, async ({ begin, end }, i, look) => {
    const capacity = Math.ceil(end / CAPACITY_STEP) * CAPACITY_STEP
    const arrays = spanRows(batch, i, stored).map((rows, at) => {
      const array = cacheArrays(config)[at]
      const whole = new Float32Array(array.heads * capacity * array.dim)
      scatterRows(rows, whole, array, 0)
      return whole
    })
    const seen = { arrays, capacity, length: end }
    await inCuts(config, seen, begin, end - begin, false, relative?.whole ?? whole, relative?.encoder ?? null, look)
  })
}

/** Attention's bits do not depend on capacity only where it is a multiple of this. */
const CAPACITY_STEP = 128

/** Attention of a decoder's rows to the encoder's of their sequence. */
const mixSource = async (
  config: ModelConfig,
  { whole }: AttendSessions,
  cache: KvCache,
  layer: number,
  batch: Batch,
  q: Float32Array,
): Promise<Float32Array> => {
  assert(whole && config.encoder)
  const kept = layer - config.encoder.layers
  return mixSpans(config, batch, q, async ({ sequence, begin, end }, _, look) => {
    if (batch.failed.has(sequence)) return
    const { id, source } = sequence.request
    const seen = viewed(cache, sourceId(id), kept, cacheArrays(config).length, source.length)
    await inCuts(config, seen, begin, end - begin, false, whole, null, look)
  })
}

/** Attention of query rows [from, to) of a span over what they see. */
type Look = (session: Session, seen: Seen, from: number, to: number, mask: Tensor | null) => Promise<void>

/** Has every span look at what it sees: q [T,queryWidth] → [T,mixedWidth], in scratch memory. */
const mixSpans = async (
  config: ModelConfig,
  batch: Batch,
  q: Float32Array,
  mix: (span: Span, index: number, look: Look) => Promise<void>,
): Promise<Float32Array> => {
  const width = mixedWidth(config)
  const [{ heads, dim }] = cacheArrays(config)
  const mixed = scratch.floats(batch.rows * width).fill(0)
  for (const [i, span] of batch.spans.entries())
    await mix(span, i, async (session, { arrays: [k, v], capacity, length }, from, to, mask) => {
      const first = batch.starts[i] + from
      const last = batch.starts[i] + to
      const query = doubled(q.subarray(first * queryWidth(config), last * queryWidth(config)), last - first)
      const S = Math.max(2, last - first)
      const result = await session.run({
        q: float32(query, [S, queryWidth(config)]),
        k: float32(k, [1, heads, capacity, dim]),
        ...(v && { v: float32(v, [1, heads, capacity, dim]) }),
        length: int64([length]),
        ...(mask && { mask }),
      })
      const values = result.mixed.data as Float32Array
      mixed.set(values.subarray((S - (last - first)) * width), first * width)
    })
  return mixed
}

/** Numbers of a mask, or of scores, at most: beyond, queries are cut. */
const SCORES_MAX = 1 << 22

/** Looks in cuts of the queries, so that neither masks nor scores grow with the square of a long source. */
const inCuts = async (
  config: ModelConfig,
  seen: Seen,
  begin: number,
  rows: number,
  causal: boolean,
  session: Session,
  relative: Relative | null,
  look: Look,
): Promise<void> => {
  const { heads } = config.attention
  const step = Math.max(2, Math.floor(SCORES_MAX / (heads * seen.capacity)))
  for (let from = 0; from < rows; from += step) {
    const to = Math.min(rows, from + step)
    const length = causal ? begin + to : seen.length
    const mask = relative && headsMask(relative, begin + from, to - from, length, seen.capacity)
    await look(session, { ...seen, length }, from, to, mask)
  }
}

/** As `doubled` for queries, a mask for one row is one for two, of which the first is dropped. */
const headsMask = (relative: Relative, first: number, rows: number, length: number, capacity: number): Tensor => {
  const S = Math.max(2, rows)
  return float32(relative.mask(first, rows, S, length, capacity), [1, relative.heads, S, capacity])
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
