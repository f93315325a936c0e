/** Where the gateway says its steps' time went, read from /metrics before and after a load. */
import { setTimeout as delay } from 'node:timers/promises'

/** The engine thread reports to /metrics four times a second. */
const REPORTED_MS = 600

/** Seconds by phase, as expertmesh_step_seconds_total counts them. */
type Seconds = ReadonlyMap<string, number>

/** What a person is told of a step, in this order; the rest is embedding, head, sampling and the loop. */
export const phaseNames = ['attend', 'dispatch', 'shared', 'wait', 'combine', 'rest'] as const
export type Phase = (typeof phaseNames)[number]

/** Parts of the time in steps, 0 to 1. */
export type Shares = Record<Phase, number> & {
  /** Time in which no kernel of the gateway ran, nor an expert's that it waited for. */
  outside: number
}

const SECONDS = /^expertmesh_step_seconds_total\{[^}]*phase="(\w+)"[^}]*\} (\S+)$/gm

const readSeconds = async (url: string): Promise<Seconds> => {
  await delay(REPORTED_MS)
  const response = await fetch(`${url}/metrics`)
  const text = await response.text()
  return new Map([...text.matchAll(SECONDS)].map(([, phase, value]) => [phase, Number(value)]))
}

/** Runs a load and tells where the time of its steps went. */
export const observe = async <T>(url: string, load: () => Promise<T>): Promise<{ result: T; shares: Shares }> => {
  const before = await readSeconds(url)
  const result = await load()
  const after = await readSeconds(url)
  const spent = (phase: string): number => (after.get(phase) ?? 0) - (before.get(phase) ?? 0)
  const step = spent('step')
  if (!(step > 0)) throw new Error(`${url}/metrics tells nothing of the time in steps`)
  const [attend, dispatch, shared, wait, combine] = ['attend', 'dispatch', 'shared', 'wait', 'combine'].map(
    (phase) => spent(phase) / step,
  )
  const kernels = (spent('kernel') + spent('experts')) / step
  const rest = 1 - attend - dispatch - shared - wait - combine
  return { result, shares: { attend, dispatch, shared, wait, combine, rest, outside: 1 - kernels } }
}
