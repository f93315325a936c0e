import { setTimeout as delay } from 'node:timers/promises'
import { arrivals, asRoomComes } from '../../services/cli/load/arrivals.ts'
import { keepPace } from '../../services/cli/load/pace.ts'
import { openRandom } from '../../services/cli/load/random.ts'
import { eventsOf } from './api.ts'
import { quantile } from './streams.ts'

/** Open loop: requests a second, whether or not answers come; closed loop: always so many under way. */
export type Pressure = { ratePerSecond: number } | { streams: number }

export type FloodOptions = {
  url: string
  /** Bearer token: who sends them. */
  key: string
  pressure: Pressure
  /** Begins after this; nothing starts later than `durationMs` after the begin. */
  afterMs?: number
  durationMs: number
  /** Of one request after another, over and over. */
  outputTokens: readonly number[]
}

/** What became of a load. Milliseconds, ascending. */
export type Flood = {
  completed: number
  refused: number
  /** Anything but a whole answer or a 429 with Retry-After, in words. */
  failures: string[]
  /** To the first token, from the sending. */
  firstMs: number[]
  /** Mean time between the tokens of each answer. */
  perTokenMs: number[]
  /** To the last byte of each 429. */
  refusedMs: number[]
}

/** Nothing is found in the prefix cache: every request has as much to do. */
const promptOf = (key: string, index: number): string => `${key} ${index}: In the beginning was the`

/** More requests than this under way wait; far more than a queue takes. */
const IN_FLIGHT_MAX = 2_000

/** Sends streamed completions of one key under the pressure given; resolves when all have been answered. */
export const flood = async (options: FloodOptions): Promise<Flood> => {
  const { url, key, pressure, afterMs = 0, durationMs } = options
  const result: Flood = { completed: 0, refused: 0, failures: [], firstMs: [], perTokenMs: [], refusedMs: [] }

  const ask = async (index: number): Promise<void> => {
    const outputTokens = options.outputTokens[index % options.outputTokens.length]
    const body = { prompt: promptOf(key, index), max_tokens: outputTokens, temperature: 0, stream: true }
    const sentMs = performance.now()
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
      body: JSON.stringify({ ...body, ignore_eos: true, return_token_ids: true }),
    })
    if (response.status === 429) {
      await response.arrayBuffer()
      result.refusedMs.push(performance.now() - sentMs)
      result.refused++
      if (!response.headers.has('retry-after')) result.failures.push('429 without Retry-After')
      return
    }
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`)
    const atMs: number[] = []
    const events = await eventsOf(response, () => atMs.push(performance.now()))
    const tokens = events.map(({ data }) => (/"token_ids":\[\d+\]/.test(data) ? 1 : 0))
    const tokenMs = atMs.filter((_, at) => tokens[at] === 1)
    if (tokenMs.length !== outputTokens) throw new Error(`${tokenMs.length} tokens of ${outputTokens}`)
    result.completed++
    result.firstMs.push(tokenMs[0] - sentMs)
    result.perTokenMs.push((tokenMs[tokenMs.length - 1] - tokenMs[0]) / (outputTokens - 1))
  }

  await delay(afterMs)
  const open = 'ratePerSecond' in pressure
  const starts = open ? arrivals(pressure.ratePerSecond, 1, openRandom(1)) : asRoomComes()
  const inFlightMax = open ? IN_FLIGHT_MAX : pressure.streams
  await keepPace(
    { starts, requests: Number.POSITIVE_INFINITY, durationMs, inFlightMax },
    (index) => ask(index).catch((error) => void result.failures.push(String(error.message))),
    new AbortController().signal,
  )
  for (const list of [result.firstMs, result.perTokenMs, result.refusedMs]) list.sort((a, b) => a - b)
  return result
}

/** Median, 99th percentile and maximum of ascending times. */
export const told = (list: readonly number[]): string =>
  list.length === 0
    ? '-'
    : [quantile(list, 0.5), quantile(list, 0.99), list[list.length - 1]].map((ms) => ms.toFixed(1)).join(' / ')

/** Times of requests that have nothing to do, one after the other: what the machine alone makes of 50 ms. */
export const idleMs = async (url: string, during: Promise<unknown>): Promise<number[]> => {
  const times: number[] = []
  let over = false
  void during.finally(() => {
    over = true
  })
  while (!over) {
    const sentMs = performance.now()
    await (await fetch(`${url}/livez`)).arrayBuffer()
    times.push(performance.now() - sentMs)
    await delay(50)
  }
  return times.sort((a, b) => a - b)
}

/** One line for people. */
export const describeFlood = (name: string, { completed, refused, failures, ...times }: Flood): string => {
  return `${name}: ${completed} completed, ${refused} refused, ${failures.length} failed; p50 / p99 / max in ms: first token ${told(times.firstMs)}, per token ${told(times.perTokenMs)}, 429 ${told(times.refusedMs)}`
}
