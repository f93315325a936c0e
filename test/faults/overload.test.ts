import { readFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { afterEach, expect, test } from 'vitest'
import { type Fleet, startFleet } from '../support/fleet.ts'
import { describeFlood, type Flood, type FloodOptions, flood, idleMs, told } from '../support/flood.ts'
import { quantile } from '../support/streams.ts'

const RUN_MS = Number(process.env.FAULT_SECONDS ?? 60) * 1000
const WARM_MS = 5_000
/** Sequences that run at a time. */
const STREAMS = 8

/** 99th percentile of the time per token, over that of the undisturbed run. */
const SLOWER_MAX = 1.5
const REFUSED_MAX_MS = 50
const GROWTH_MAX = 0.1
const GROWTH_MAX_BYTES = 32 * 2 ** 20
/** Of a tenant's wait where another floods the queue, over its wait where the server is merely busy. */
const LONGER_MAX = 2

let fleet: Fleet
afterEach(() => fleet?.stop())

const start = async (queueLimit: number): Promise<void> => {
  const gatewayFlags = ['--max-sequences', String(STREAMS), '--queue-limit', String(queueLimit)]
  fleet = await startFleet({ workers: 2, replicas: 1, gatewayFlags })
}

const send = (options: Pick<FloodOptions, 'key' | 'pressure'> & Partial<FloodOptions>): Promise<Flood> =>
  flood({ url: fleet.url, durationMs: RUN_MS, outputTokens: [48], ...options })

/** Resident memory of the gateway and the workers, bytes. */
const resident = (): number[] =>
  [fleet.gateway, ...fleet.workers].flatMap((service) => {
    const kib = service && /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${service.process.pid}/status`, 'utf8'))?.[1]
    return kib ? [Number(kib) * 1024] : []
  })

const mib = (bytes: readonly number[]): string => bytes.map((one) => (one / 2 ** 20).toFixed(0)).join(', ')

test('ten times as many requests as can be served: those admitted are as fast as ever, the rest is refused at once', async () => {
  await start(16)
  await send({ key: 'warm', pressure: { streams: STREAMS }, durationMs: WARM_MS })
  const undisturbed = await send({ key: 'steady', pressure: { streams: STREAMS } })
  console.info(describeFlood(`1 ×, ${STREAMS} streams`, undisturbed))
  const before = resident()
  const ratePerSecond = (10 * undisturbed.completed * 1000) / RUN_MS
  const loop = monitorEventLoopDelay({ resolution: 5 })
  loop.enable()
  const flooding = send({ key: 'many', pressure: { ratePerSecond } })
  const idle = await idleMs(fleet.url, flooding)
  const overloaded = await flooding
  const after = resident()
  console.info(describeFlood(`10 ×, ${ratePerSecond.toFixed(0)} requests/s`, overloaded))
  console.info(
    `the client was held up: p99 ${(loop.percentile(99) / 1e6 - 5).toFixed(1)} ms, at most ${(loop.max / 1e6 - 5).toFixed(1)} ms`,
  )
  console.info(`/livez meanwhile, p50 / p99 / max in ms: ${told(idle)}`)
  console.info(`resident MiB of gateway and workers: ${mib(before)} before, ${mib(after)} after`)

  expect(undisturbed.failures).toEqual([])
  expect(overloaded.failures).toEqual([])
  expect(overloaded.refused).toBeGreaterThan(overloaded.completed)
  // All streams were busy, so that the two runs compare.
  expect(overloaded.completed).toBeGreaterThan(0.7 * undisturbed.completed)
  expect(quantile(overloaded.perTokenMs, 0.99)).toBeLessThanOrEqual(SLOWER_MAX * quantile(undisturbed.perTokenMs, 0.99))
  expect(quantile(overloaded.refusedMs, 0.99)).toBeLessThan(REFUSED_MAX_MS)
  for (const [at, bytes] of before.entries())
    expect(after[at]).toBeLessThanOrEqual(bytes * (1 + GROWTH_MAX) + GROWTH_MAX_BYTES)
})

/**
 * Alone on an idle server a tenant does not queue at all, and twice nothing is nothing. So its wait is compared with that on a busy
 * server: as many streams running as there may be, and nobody waiting but itself. Their lengths differ, or they would begin and end
 * together, and the wait be that for all of them or for none.
 */
const waits = async (): Promise<{ busyMs: number; floodedMs: number }> => {
  const quiet = { key: 'quiet', pressure: { ratePerSecond: 1 }, afterMs: WARM_MS, outputTokens: [24] }
  const loud = { key: 'loud', durationMs: RUN_MS + WARM_MS, outputTokens: [24, 18, 30, 21, 27] }
  const [busy] = await Promise.all([send(quiet), send({ ...loud, pressure: { streams: STREAMS } })])
  const [flooded, other] = await Promise.all([send(quiet), send({ ...loud, pressure: { ratePerSecond: 100 } })])
  console.info(describeFlood(`1 request/s beside ${STREAMS} streams of another key`, busy))
  console.info(describeFlood('1 request/s beside 100 requests/s of another key', flooded))
  console.info(describeFlood('the other key', other))

  expect([...busy.failures, ...flooded.failures, ...other.failures]).toEqual([])
  expect(other.refused).toBeGreaterThan(0)
  // The flood leaves room in the queue.
  expect(flooded.refused).toBe(0)
  return { busyMs: quantile(busy.firstMs, 0.99), floodedMs: quantile(flooded.firstMs, 0.99) }
}

test('a hundred times as many requests of another tenant do not double the time in which one gets its turn', async () => {
  await start(64)
  const alone = { key: 'quiet', pressure: { ratePerSecond: 1 }, outputTokens: [24] }
  await send({ key: 'loud', pressure: { streams: STREAMS }, durationMs: WARM_MS })
  console.info(describeFlood('1 request/s on an idle server', await send({ ...alone, durationMs: RUN_MS / 4 })))
  let { busyMs, floodedMs } = await waits()
  // The longest of some twenty waits: what is late, and nothing else, is measured once more.
  if (floodedMs > LONGER_MAX * busyMs) {
    console.info(`${floodedMs.toFixed(0)} ms after ${busyMs.toFixed(0)}; once more`)
    ;({ busyMs, floodedMs } = await waits())
  }
  expect(floodedMs).toBeLessThanOrEqual(LONGER_MAX * busyMs)
})
