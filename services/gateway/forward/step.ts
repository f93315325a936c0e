import type { ModelConfig } from '../../../shared/model/config.ts'
import type { Rope } from '../../../shared/model/rope.ts'
import { rowBytes } from '../../../shared/model/rows.ts'
import { float32, type Session } from '../../../shared/model/session.ts'
import type { Span } from '../batch/schedule.ts'
import type { Sequence } from '../sequence.ts'
import { type Attended, type AttendSessions, attend } from './attend.ts'
import { type Batch, checkFinite, isolate, makeBatch, type Rows, spanRows } from './batch.ts'
import type { KvCache } from './cache.ts'
import { combine } from './combine.ts'
import { type Arrived, type DispatchLimits, dispatch, type Runners } from './dispatch.ts'
import { type EmbedSessions, embed } from './embed.ts'
import { head } from './head.ts'
import { type Routes, route } from './route.ts'
import { scratch } from './scratch.ts'
import { runShared } from './shared.ts'
import { sourceId } from './source.ts'

/** Everything a step reads; opened once per model. */
export type Forward = {
  config: ModelConfig
  rope: { angles: Rope; dim: number } | null
  cache: KvCache
  embed: EmbedSessions
  attend: AttendSessions
  shared: readonly (Session | null)[]
  /** Router biases [E] by layer. */
  bias: readonly (Float32Array | null)[]
  /** Keys and values of the encoder's rows, of the decoder's layers; null elsewhere. */
  source: readonly (Session | null)[]
  /** Norms that end layers, null where none do. */
  settle: readonly (Session | null)[]
  head: Session
  runners: Runners
  limits: DispatchLimits
  observe(layer: number, routes: Routes, arrived: Arrived, spent: LayerTimes, rows: number): void
}

/** Milliseconds of one layer. */
export type LayerTimes = {
  attendMs: number
  dispatchMs: number
  sharedMs: number
  waitMs: number
  /** Part of waitMs in which the experts' kernels ran. */
  expertsMs: number
  combineMs: number
  bytes: number
}

/** Logits of the rows that were asked for: row i of the batch's list is logits[i·V, (i+1)·V). */
export type StepResult = { batch: Batch; logits: Float32Array }

/**
 * The sources of these sequences, whole, through the encoder; leaves in the cache what the decoder's layers see of them. The batch says
 * which of them failed.
 */
export const encode = async (forward: Forward, sequences: readonly Sequence[], signal: AbortSignal): Promise<Batch> => {
  const { config, cache, source } = forward
  const spans = sequences.map((sequence) => ({
    sequence,
    beam: sequence.beams[0],
    begin: 0,
    end: sequence.request.source.length,
  }))
  const batch = makeBatch(spans, forward.rope, 'encoder')
  const layers = config.encoder?.layers ?? 0
  let h = await embed(config, forward.embed, batch) // [T,H]
  for (let layer = 0; layer < layers; layer++) h = await runLayer(forward, layer, h, batch, signal)
  checkFinite(batch, layers - 1, [[h, config.hidden]], [])
  for (const [layer, session] of source.entries()) {
    if (!session) continue
    const { k, v } = await session.run({ h: float32(h, [batch.rows, config.hidden]) })
    for (const [i, { sequence }] of spans.entries()) {
      const rows = spanRows(batch, i, [k.data as Float32Array, v.data as Float32Array])
      isolate(batch, sequence, () => cache.append(sourceId(sequence.request.id), layer - layers, rows, 0))
    }
  }
  scratch.give(h)
  return batch
}

/**
 * One pass of the spans through all layers, or all of the decoder's; `wanted` names the batch rows whose logits are needed.
 * T token rows, H hidden, E experts, K experts per token, V vocabulary.
 */
export const step = async (
  forward: Forward,
  spans: readonly Span[],
  wanted: (batch: Batch) => readonly number[],
  signal: AbortSignal,
): Promise<StepResult> => {
  const { config } = forward
  const batch = makeBatch(spans, forward.rope, 'decoder')
  let h = await embed(config, forward.embed, batch) // [T,H]
  for (let layer = config.encoder?.layers ?? 0; layer < config.layers.length; layer++) {
    h = await runLayer(forward, layer, h, batch, signal)
  }
  checkFinite(batch, config.layers.length - 1, [[h, config.hidden]], [])
  const logits = await head(forward.head, h, config.hidden, wanted(batch)) // [n,V]
  scratch.give(h)
  return { batch, logits }
}

const runLayer = async (
  forward: Forward,
  layer: number,
  h: Float32Array,
  batch: Batch,
  signal: AbortSignal,
): Promise<Float32Array> => {
  const { config, runners, limits } = forward
  const begun = performance.now()
  const a = await attend(config, forward.attend, forward.cache, layer, h, batch) // a.h [T,H], a.affinity [T,E]
  checkFinite(batch, layer, rowsOf(a, config), [[a.rows, config.hidden], ...(a.scale ? [[a.scale, 1] as const] : [])])
  scratch.give(h)
  const attended = performance.now()
  const routes = chooseExperts(forward, layer, a, batch) // ids, weights [T,K]
  const handle = await dispatch(runners, layer, config.hidden, a, routes, limits, signal)
  const sent = performance.now()
  const s = await runShared(config, forward.shared[layer], layer, a, handle.frames > 0) // [T,H], while the experts compute
  const computed = performance.now()
  const rows = await handle.rows
  const arrived = performance.now()
  const combined = await settle(forward, layer, combine(a.h, s, routes, rows, config.hidden)) // [T,H]
  const sharedMs = computed - sent
  const waitMs = arrived - computed
  const spent = {
    attendMs: attended - begun,
    dispatchMs: sent - attended,
    sharedMs,
    waitMs,
    expertsMs: Math.min(waitMs, Math.max(0, rows.computeMs - sharedMs)),
    combineMs: performance.now() - arrived,
    bytes: handle.requestBytes + rows.sources.reduce((sum, source) => sum + rowBytes(source), 0),
  }
  forward.observe(layer, routes, rows, spent, batch.rows)
  for (const done of [...rows.sources.map((source) => source.rows), ...(s ? [s] : [])]) scratch.give(done)
  return combined
}

/** What attention gave that must be finite. */
const rowsOf = ({ h, affinity }: Attended, { hidden, moe }: ModelConfig): Rows[] => [
  [h, hidden],
  ...(affinity ? [[affinity, moe.experts] as const] : []),
]

/** A dense layer is a sparse one whose tokens choose no expert. */
const chooseExperts = (
  { config: { moe }, bias }: Forward,
  layer: number,
  { affinity }: Attended,
  { stack, starts }: Batch,
): Routes =>
  affinity
    ? route(affinity, moe.experts, moe.topK, moe.router, bias[layer], stack === 'encoder' ? starts : null)
    : { topK: 0, ids: new Uint32Array(0), weights: new Float32Array(0) }

const settle = async ({ config, settle }: Forward, layer: number, h: Float32Array): Promise<Float32Array> => {
  const session = settle[layer]
  if (!session) return h
  const settled = await session.run({ h: float32(h, [h.length / config.hidden, config.hidden]) })
  scratch.give(h)
  return settled['h.out'].data as Float32Array
}
