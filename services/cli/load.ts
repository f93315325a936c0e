import { writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import { Code, MeshError } from '../../shared/errors.ts'
import { say } from './cluster.ts'
import { readToken } from './flags.ts'
import { arrivals, asRoomComes } from './load/arrivals.ts'
import { ask, type Target } from './load/ask.ts'
import { compare, type Golden, readGolden, remember, writeGolden } from './load/golden.ts'
import {
  checkOptions,
  DEFAULT_CONCURRENCY,
  DEFAULT_REQUESTS,
  DEFAULT_URL,
  type LoadOptions,
  loadFlags,
} from './load/options.ts'
import { keepPace, type Plan } from './load/pace.ts'
import { openRandom } from './load/random.ts'
import { block, json } from './load/report.ts'
import { openTally, type Result } from './load/tally.ts'
import {
  type Asked,
  askedOf,
  type Draw,
  promptsWorkload,
  randomWorkload,
  traceWorkload,
  type Workload,
} from './load/workload.ts'
import { stopSignal } from './signals.ts'

const PROGRESS_MS = 2_000
const MODELS_LIMIT_MS = 10_000
/** Stream of the seed that arrivals are drawn from; prompts take theirs by index. */
const ARRIVALS_STREAM = 2 ** 32 - 1

export const loadCommand = (): Command => loadFlags().action(load)

const load = async (options: LoadOptions): Promise<void> => {
  checkOptions(options)
  const stop = stopSignal()
  const target = targetOf(options)
  const workload = workloadOf(options)
  const plan = planOf(options, workload)
  const manner = {
    model: options.model ?? (await firstModel(target)),
    endpoint: options.endpoint,
    temperature: options.temperature,
    seed: options.seed,
    check: checks(options),
    plain: options.plain ?? false,
    resume: target.resume,
  }
  const askedAt = (index: number): Asked => askedOf(workload.at(index), manner)
  const golden = await goldenOf(options, target, Math.min(workload.distinct, plan.requests), askedAt, stop)
  const report = await measure(target, plan, askedAt, golden, stop)
  console.log(block(report))
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(json(report))}\n`)
  if (failures(report.result, options.allowRefused ?? false) > 0) process.exitCode = 1
}

const checks = ({ check, golden, writeGolden }: LoadOptions): boolean => Boolean(check || golden || writeGolden)

const targetOf = (options: LoadOptions): Target => ({
  urls: options.url ?? [DEFAULT_URL],
  path: options.endpoint === 'chat' ? '/v1/chat/completions' : '/v1/completions',
  token: readToken(options.tokenFile),
  timeoutMs: options.timeout * 1000,
  stallMs: options.stallMs ?? null,
  resume: options.resume ?? false,
})

const workloadOf = (options: LoadOptions): Workload => {
  const { trace, prompts, distinct, requests, seed, vocabulary, plain, endpoint } = options
  const words = Boolean(plain) || endpoint === 'chat'
  const draw: Draw = { seed, input: options.inputLen, output: options.outputLen, vocabulary, words }
  if (trace !== undefined) return traceWorkload(trace, draw)
  if (prompts !== undefined) return promptsWorkload(prompts, draw)
  // Nothing repeats by itself, for a server with a prefix cache would answer faster; but what is checked must end.
  const unbounded = checks(options) || options.duration === undefined ? DEFAULT_REQUESTS : Number.POSITIVE_INFINITY
  return randomWorkload(draw, distinct ?? requests ?? unbounded)
}

const planOf = (options: LoadOptions, workload: Workload): Plan => {
  const { rate, burstiness, concurrency, trace, prompts, duration, seed, maxConcurrency } = options
  const lines = (trace ?? prompts) === undefined ? DEFAULT_REQUESTS : workload.distinct
  const bounds = {
    requests: options.requests ?? (duration === undefined || trace !== undefined ? lines : Number.POSITIVE_INFINITY),
    durationMs: duration === undefined ? Number.POSITIVE_INFINITY : duration * 1000,
  }
  if (workload.startsMs) return { ...bounds, starts: workload.startsMs, inFlightMax: maxConcurrency }
  if (rate === undefined) return { ...bounds, starts: asRoomComes(), inFlightMax: concurrency ?? DEFAULT_CONCURRENCY }
  const starts = arrivals(rate, burstiness, openRandom(seed, ARRIVALS_STREAM))
  return { ...bounds, starts, inFlightMax: maxConcurrency }
}

/** @throws MeshError UNAVAILABLE where no server says what it serves. */
const firstModel = async ({ urls, token }: Target): Promise<string> => {
  let reason = 'no server'
  for (const url of urls) {
    try {
      const headers: Record<string, string> = token === null ? {} : { authorization: `Bearer ${token}` }
      const response = await fetch(`${url}/v1/models`, { headers, signal: AbortSignal.timeout(MODELS_LIMIT_MS) })
      const body = (await response.json()) as { data?: { id?: string }[] }
      const model = body.data?.[0]?.id
      if (response.ok && typeof model === 'string') return model
      reason = `${url}/v1/models answers ${response.status} and names no model`
    } catch (thrown) {
      const { cause, message } = thrown as Error
      reason = `${url}/v1/models: ${cause instanceof Error ? cause.message : message}`
    }
  }
  throw new MeshError(Code.UNAVAILABLE, `${reason}: start the server, or name it with --url and --model`)
}

/** The answers to check against; null where nothing is checked. */
const goldenOf = async (
  options: LoadOptions,
  target: Target,
  distinct: number,
  askedAt: (index: number) => Asked,
  stop: AbortSignal,
): Promise<Golden | null> => {
  if (options.golden !== undefined) return readGolden(options.golden)
  if (!options.check && options.writeGolden === undefined) return null
  const golden: Golden = new Map()
  const timer = setInterval(() => say(`asking alone: ${golden.size} of ${distinct}`), PROGRESS_MS)
  const alone: Plan = {
    starts: asRoomComes(),
    requests: distinct,
    durationMs: Number.POSITIVE_INFINITY,
    inFlightMax: 1,
  }
  const start = async (index: number, _: number, life: AbortController): Promise<void> => {
    const { body, key } = askedAt(index)
    const { heard, fault, stopped } = await ask(target, index, body, life, () => {})
    if (stopped) return
    if (fault) throw new MeshError(Code.UNAVAILABLE, `request ${index} failed already alone: ${fault.message}`)
    remember(golden, key, heard)
  }
  await keepPace(alone, start, stop).finally(() => clearInterval(timer))
  if (stop.aborted) throw new MeshError(Code.CANCELLED, 'stopped before the load had begun')
  if (options.writeGolden !== undefined) writeGolden(options.writeGolden, golden)
  return golden
}

const measure = async (
  target: Target,
  plan: Plan,
  askedAt: (index: number) => Asked,
  golden: Golden | null,
  stop: AbortSignal,
) => {
  const tally = openTally()
  const live = { inFlight: 0, tokens: 0 }
  const start = async (index: number, intendedMs: number, life: AbortController): Promise<void> => {
    const { body, key } = askedAt(index)
    live.inFlight += 1
    const outcome = await ask(target, index, body, life, (tokens) => {
      live.tokens += tokens
    })
    live.inFlight -= 1
    const fault = outcome.fault ?? (golden && compare(golden, key, outcome.heard))
    tally.add({ ...outcome, fault }, intendedMs)
  }
  const begunMs = performance.now()
  const endProgress = reportProgress(begunMs, () => ({ ...live, ...tally.counts }))
  const pace = await keepPace(plan, start, stop).finally(endProgress)
  return { result: tally.result(performance.now() - begunMs), pace, inFlightMax: plan.inFlightMax }
}

type Progress = { inFlight: number; tokens: number; done: number; failed: number; resumes: number }

/** Says every two seconds how far things are; the rate is that of the last two. */
const reportProgress = (begunMs: number, look: () => Progress): (() => void) => {
  let last = { atMs: begunMs, tokens: 0 }
  const timer = setInterval(() => {
    const atMs = performance.now()
    const { inFlight, tokens, done, failed, resumes } = look()
    const rate = ((tokens - last.tokens) * 1000) / (atMs - last.atMs)
    last = { atMs, tokens }
    const seconds = Math.round((atMs - begunMs) / 1000)
    say(
      `load: ${seconds} s, ${done} done, ${inFlight} in flight, ${failed} failed, ${resumes} resumed, ${rate.toFixed(0)} tok/s`,
    )
  }, PROGRESS_MS)
  return () => clearInterval(timer)
}

const failures = ({ failed, errors }: Result, allowRefused: boolean): number =>
  failed - (allowRefused ? (errors.refused?.count ?? 0) : 0)
