import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { EngineReport } from './port.ts'

/** Seconds; the first token waits for the queue and the prefill, so its buckets reach further. */
const firstTokenBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
const interTokenBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]
const endToEndBuckets = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]

/** What the parts of the gateway report. Seconds are from a monotonic clock of one process. */
export type Metrics = {
  /** What /metrics prints. */
  registry: Registry
  accepted(): void
  started(cachedTokens: number, promptTokens: number): void
  token(): void
  firstToken(seconds: number): void
  interToken(seconds: number): void
  /** A sequence left: stop, length, cancelled, error or refused (the queue was full). `started`: an engine had begun it. */
  finished(reason: string, seconds: number, started: boolean): void
  /** What the engine did since its last report; `worker` names who ran an expert. */
  report(report: EngineReport, worker: (layer: number, expert: number) => string): void
}

/** Counters of one gateway in Prometheus' text format, named after vLLM's (docs/design/metrics.md) behind `expertmesh_`. */
export const openMetrics = (model: string): Metrics => {
  const registry = new Registry()
  registry.setDefaultLabels({ model_name: model })
  collectDefaultMetrics({ register: registry })
  const named = (name: string, help: string) => ({ name: `expertmesh_${name}`, help, registers: [registry] })
  const running = new Gauge(named('num_requests_running', 'Sequences an engine is working on'))
  const waiting = new Gauge(named('num_requests_waiting', 'Sequences accepted and not yet started'))
  const promptTokens = new Counter(named('prompt_tokens_total', 'Prompt tokens of sequences that an engine began'))
  const generationTokens = new Counter(named('generation_tokens_total', 'Tokens generated'))
  const success = new Counter({
    ...named('request_success_total', 'Sequences that ended, by reason'),
    labelNames: ['finished_reason'],
  })
  const firstToken = new Histogram({
    ...named('time_to_first_token_seconds', 'From acceptance to the first token'),
    buckets: firstTokenBuckets,
  })
  const interToken = new Histogram({
    ...named('inter_token_latency_seconds', 'Between two tokens of a sequence'),
    buckets: interTokenBuckets,
  })
  const endToEnd = new Histogram({
    ...named('e2e_request_latency_seconds', 'From acceptance to the last token'),
    buckets: endToEndBuckets,
  })
  const cache = new Gauge(named('kv_cache_usage_perc', 'Share of the KV cache in use, 0 to 1'))
  const queries = new Counter(named('prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache'))
  const hits = new Counter(named('prefix_cache_hits_total', 'Prompt tokens found in the prefix cache'))
  const steps = new Counter(named('steps_total', 'Passes of a batch through all layers'))
  const stepRows = new Counter(named('step_rows_total', 'Token rows that went through all layers'))
  const phases = new Counter({
    ...named('step_seconds_total', "Time of the steps' parts, over all layers"),
    labelNames: ['phase'],
  })
  const bytes = new Counter(named('dispatch_bytes_total', 'Bytes of token rows sent to experts and returned by them'))
  const rows = new Counter({
    ...named('expert_rows_total', 'Token rows through an expert'),
    labelNames: ['layer', 'expert', 'worker'],
  })
  return {
    registry,
    accepted: () => waiting.inc(),
    started(cached, prompt) {
      waiting.dec()
      running.inc()
      promptTokens.inc(prompt)
      queries.inc(prompt)
      hits.inc(cached)
    },
    token: () => generationTokens.inc(),
    firstToken: (seconds) => firstToken.observe(seconds),
    interToken: (seconds) => interToken.observe(seconds),
    finished(reason, seconds, wasStarted) {
      if (wasStarted) running.dec()
      else waiting.dec()
      success.inc({ finished_reason: reason })
      if (reason !== 'refused') endToEnd.observe(seconds)
    },
    report(report, worker) {
      cache.set(report.cacheShare)
      steps.inc(report.steps)
      stepRows.inc(report.rows)
      const { bytes: dispatched, ...times } = report.times
      bytes.inc(dispatched)
      for (const [name, timeMs] of Object.entries(times)) phases.inc({ phase: name.replace(/Ms$/, '') }, timeMs / 1000)
      for (const [layer, experts] of report.expertRows.entries()) {
        for (const [expert, count] of experts?.entries() ?? [])
          if (count) rows.inc({ layer, expert, worker: worker(layer, expert) }, count)
      }
    },
  }
}
