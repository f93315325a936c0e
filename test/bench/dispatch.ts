/** The way of token rows to two real workers and back, with one layer's experts and without the rest of a step. */
import type { Attended } from '../../services/gateway/forward/attend.ts'
import { combine } from '../../services/gateway/forward/combine.ts'
import { dispatch, type Runners } from '../../services/gateway/forward/dispatch.ts'
import type { Routes } from '../../services/gateway/forward/route.ts'
import { spaceOf } from '../../services/gateway/placement/fleet.ts'
import { rowBytes } from '../../shared/model/rows.ts'
import { seeded } from '../support/random.ts'
import { FRAME_BYTES_MAX, startHolders } from './holders.ts'
import type { Prepared } from './models.ts'
import { percentile } from './numbers.ts'
import { say } from './say.ts'

const WORKERS = 2
const LIMIT_MS = 120_000
/** A size is repeated until one of these is reached. */
const REPEATS_MAX = 2_000
const REPEATS_MIN = 10
const SECONDS_MAX = 15
/** Before, uncounted: V8 has compiled what runs often by then. */
const WARM_SECONDS = 3

/** Milliseconds. */
type Latency = { p50: number; p99: number }
export type DispatchFigures = {
  rows: number
  repeats: number
  /** Until the last byte of every frame is on its way. */
  sent: Latency
  /** Until the replies are combined. */
  back: Latency
  /** Of the way back and forth, what the slower worker's kernels did not take. */
  wire: Latency
  /** Of token rows, both ways. */
  bytes: number
  /** Of those, the workers' answers. */
  bytesBack: number
}

/** Dispatch and combine of so many token rows through one layer of 2 workers, each as often as 15 s allow. */
export const measureDispatch = async (
  model: Prepared,
  rows: readonly number[] = [1, 512],
): Promise<DispatchFigures[]> => {
  const [layer] = spaceOf(model.config).layers
  const { runners, close } = await startHolders(model, WORKERS, [layer])
  try {
    const figures: DispatchFigures[] = []
    for (const count of rows) figures.push(await timeRows(model, layer, runners, count))
    return figures
  } finally {
    await close()
  }
}

const timeRows = async (
  { name, config, precision }: Prepared,
  layer: number,
  runners: Runners,
  rows: number,
): Promise<DispatchFigures> => {
  say(`${name}: dispatch of ${rows} ${rows === 1 ? 'row' : 'rows'}`)
  const { hidden, moe } = config
  const next = seeded(rows)
  const attended = randomRows(rows, hidden, precision, next)
  const limits = { timeoutMs: LIMIT_MS, frameBytesMax: FRAME_BYTES_MAX }
  const { signal } = new AbortController()
  const times: { sent: number; back: number; wire: number }[] = []
  let [bytes, bytesBack] = [0, 0]
  const from = performance.now() + WARM_SECONDS * 1000
  const until = from + SECONDS_MAX * 1000
  while (times.length < REPEATS_MAX && (performance.now() < until || times.length < REPEATS_MIN)) {
    const routes = randomRoutes(rows, moe.experts, moe.topK, next)
    const begun = performance.now()
    const handle = await dispatch(runners, layer, hidden, attended, routes, limits, signal)
    const sent = performance.now() - begun
    const arrived = await handle.rows
    const wire = performance.now() - begun - arrived.computeMs
    combine(attended.h, null, routes, arrived, hidden)
    if (begun >= from) times.push({ sent, back: performance.now() - begun, wire })
    bytesBack = arrived.sources.reduce((sum, source) => sum + rowBytes(source), 0)
    bytes = handle.requestBytes + bytesBack
  }
  const latency = (of: keyof (typeof times)[number]): Latency => {
    const values = times.map((time) => time[of])
    return { p50: percentile(values, 50), p99: percentile(values, 99) }
  }
  return {
    rows,
    repeats: times.length,
    sent: latency('sent'),
    back: latency('back'),
    wire: latency('wire'),
    bytes,
    bytesBack,
  }
}

type Next = (limit: number) => number

const randomRows = (rows: number, hidden: number, precision: Prepared['precision'], next: Next): Attended => {
  const length = rows * hidden
  const floats = Float32Array.from({ length }, () => next(2000) / 1000 - 1)
  const bytes = Uint8Array.from(floats, (value) => 128 + Math.round(value * 127))
  const int8 = precision === 'int8'
  const scale = int8 ? new Float32Array(rows).fill(1) : null
  return { h: floats, rows: int8 ? bytes : floats, scale, affinity: null, share: null }
}

/** Different experts per row, ascending, with equal gate weights. */
const randomRoutes = (rows: number, experts: number, topK: number, next: Next): Routes => {
  const ids = new Uint32Array(rows * topK)
  for (let row = 0; row < rows; row++) {
    const chosen = new Set<number>()
    while (chosen.size < topK) chosen.add(next(experts))
    ids.set(
      [...chosen].sort((a, b) => a - b),
      row * topK,
    )
  }
  return { topK, ids, weights: new Float32Array(rows * topK).fill(1 / topK) }
}
