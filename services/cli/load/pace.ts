import { setTimeout as delay } from 'node:timers/promises'

/** When requests start. Bounded: `requests` and `durationMs` both end it. */
export type Plan = {
  /** Intended starts in ms after the begin, ascending; null: as soon as there is room. */
  starts: Iterable<number | null>
  requests: number
  /** Nothing starts later; Infinity: the number of requests alone bounds the run. */
  durationMs: number
  inFlightMax: number
}

/** What the client itself did to the arrivals. */
export type Pace = {
  /** Arrivals that found `inFlightMax` requests under way and waited. */
  waited: number
  /** Arrivals that were due within the duration and still waited at its end. */
  unsent: number
  /** Most by which a request that had not to wait was sent late: the client's own lack of time. */
  lateMs: number
  /** Most requests under way at once. */
  inFlightMost: number
}

/** Sends one request; `intendedMs` is on the clock of performance.now(). */
export type Start = (index: number, intendedMs: number, life: AbortController) => Promise<void>

/**
 * Starts requests as planned and resolves when all have ended. `stop` starts no more and ends those under way.
 * Rejects with what a start rejects with.
 */
export const keepPace = async (plan: Plan, start: Start, stop: AbortSignal): Promise<Pace> => {
  const begunMs = performance.now()
  const pace: Pace = { waited: 0, unsent: 0, lateMs: 0, inFlightMost: 0 }
  const underWay = new Map<Promise<void>, AbortController>()
  let freed = (): void => {}
  const endAll = (): void => {
    for (const life of underWay.values()) life.abort()
  }
  stop.addEventListener('abort', endAll, { once: true })

  const room = async (): Promise<void> => {
    while (underWay.size >= plan.inFlightMax) {
      await new Promise<void>((resolve) => {
        freed = resolve
      })
    }
  }
  const failures: unknown[] = []
  const launch = (index: number, intendedMs: number): void => {
    const life = new AbortController()
    const work = start(index, intendedMs, life)
      .catch((thrown) => void failures.push(thrown))
      .finally(() => {
        underWay.delete(work)
        freed()
      })
    underWay.set(work, life)
    // Stopped while it started, when nobody knew of it yet.
    if (stop.aborted) life.abort()
    pace.inFlightMost = Math.max(pace.inFlightMost, underWay.size)
  }

  let index = 0
  for (const dueMs of plan.starts) {
    if (index >= plan.requests || (dueMs ?? 0) >= plan.durationMs) break
    if (dueMs !== null) await until(begunMs + dueMs, stop)
    const full = underWay.size >= plan.inFlightMax
    if (full && dueMs !== null) pace.waited += 1
    await room()
    if (stop.aborted || failures.length > 0) break
    const nowMs = performance.now()
    const over = nowMs - begunMs >= plan.durationMs
    if (over && dueMs === null) break
    // What was due in time and did not have to wait is sent, if only just.
    if (over && (full || pace.unsent > 0)) pace.unsent += 1
    else {
      if (dueMs !== null && !full) pace.lateMs = Math.max(pace.lateMs, nowMs - begunMs - dueMs)
      launch(index, dueMs === null ? nowMs : begunMs + dueMs)
    }
    index += 1
  }
  if (failures.length > 0) endAll()
  await Promise.all(underWay.keys())
  stop.removeEventListener('abort', endAll)
  if (failures.length > 0) throw failures[0]
  return pace
}

/** Resolves at that time of performance.now(), or when `stop` aborts. */
const until = async (atMs: number, stop: AbortSignal): Promise<void> => {
  while (!stop.aborted && performance.now() < atMs) {
    // A timer may fire a fraction of a millisecond early.
    await delay(Math.ceil(atMs - performance.now()), undefined, { signal: stop }).catch(() => {})
  }
}
