import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Fleet } from './placement/fleet.ts'
import type { State } from './placement/health.ts'
import type { EngineReport } from './port.ts'

/** Seconds; the first token waits for the queue and the prefill, so its buckets reach further. */
const firstTokenBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
const interTokenBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]
const endToEndBuckets = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]

const STATES: readonly State[] = ['live', 'ejected', 'lost', 'liar']

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
  /** A request of a batch has its result. */
  batchRequest(outcome: 'completed' | 'failed'): void
  /** What the engine did since its last report. */
  report(report: EngineReport): void
  /** Shows these workers, as they are whenever the series are read. */
  watch(fleet: Fleet): void
}

/** The series themselves, named after vLLM's (docs/design/metrics.md) behind `expertmesh_`. */
const openSeries = (registry: Registry) => {
  const named = (name: string, help: string) => ({ name: `expertmesh_${name}`, help, registers: [registry] })
  return {
    running: new Gauge(named('num_requests_running', 'Sequences an engine is working on')),
    waiting: new Gauge(named('num_requests_waiting', 'Sequences accepted and not yet started')),
    promptTokens: new Counter(named('prompt_tokens_total', 'Prompt tokens of sequences that an engine began')),
    generationTokens: new Counter(named('generation_tokens_total', 'Tokens generated')),
    success: new Counter({
      ...named('request_success_total', 'Sequences that ended, by reason'),
      labelNames: ['finished_reason'],
    }),
    batchRequests: new Counter({
      ...named('batch_requests_total', 'Requests of batches that got their result from this gateway'),
      labelNames: ['outcome'],
    }),
    firstToken: new Histogram({
      ...named('time_to_first_token_seconds', 'From acceptance to the first token'),
      buckets: firstTokenBuckets,
    }),
    interToken: new Histogram({
      ...named('inter_token_latency_seconds', 'Between two tokens of a sequence'),
      buckets: interTokenBuckets,
    }),
    endToEnd: new Histogram({
      ...named('e2e_request_latency_seconds', 'From acceptance to the last token'),
      buckets: endToEndBuckets,
    }),
    cache: new Gauge(named('kv_cache_usage_perc', 'Share of the KV cache in use, 0 to 1')),
    queries: new Counter(named('prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache')),
    hits: new Counter(named('prefix_cache_hits_total', 'Prompt tokens found in the prefix cache')),
    steps: new Counter(named('steps_total', 'Passes of a batch through all layers')),
    stepRows: new Counter(named('step_rows_total', 'Token rows that went through all layers')),
    phases: new Counter({
      ...named('step_seconds_total', "Time of the steps' parts, over all layers"),
      labelNames: ['phase'],
    }),
    bytes: new Counter(named('dispatch_bytes_total', 'Bytes of token rows sent to experts and returned by them')),
    rows: new Counter({
      ...named('expert_rows_total', 'Token rows through an expert'),
      labelNames: ['layer', 'expert', 'worker'],
    }),
    state: new Gauge({
      ...named('worker_state', 'How the engine stands to a worker: 1 for its state, 0 for the others'),
      labelNames: ['worker', 'state'],
    }),
    faults: new Counter({
      ...named('faults_total', 'Calls to workers that went wrong, and what followed'),
      labelNames: ['kind'],
    }),
  }
}

/** The workers and what they hold, read when Prometheus asks. */
const openFleetSeries = (registry: Registry, fleet: Fleet): void => {
  const gauge = (name: string, help: string, read: () => number): void => {
    new Gauge({
      name: `expertmesh_${name}`,
      help,
      registers: [registry],
      collect() {
        this.set(read())
      },
    })
  }
  gauge('topology_version', 'Number of the placement in force', () => fleet.topology?.version ?? 0)
  gauge('replicas_min', 'Live workers that hold an expert: the fewest of any', () => fewest(fleet))
  gauge('missing_experts', 'Experts that no live worker holds', () => fleet.missing().length)
  gauge('loading_experts', 'Experts on their way into workers', () => fleet.loads())
  gauge('rebalances', 'Turns of levelling the load since the start', () => fleet.rebalance?.totals().turns ?? 0)
  gauge(
    'rebalance_loads',
    'Experts loaded to level the load since the start',
    () => fleet.rebalance?.totals().loads ?? 0,
  )
  new Gauge({
    name: 'expertmesh_balancedness',
    help: 'Mean ÷ greatest load of the workers for their speeds, 1 is level: measured before the last rebalance, and of the placement before and after it',
    labelNames: ['of'],
    registers: [registry],
    collect() {
      for (const [of, value] of Object.entries(fleet.rebalance?.balancedness() ?? {})) this.set({ of }, value)
    },
  })
  new Gauge({
    name: 'expertmesh_workers',
    help: 'Workers by state: 1 for the one it is in',
    labelNames: ['worker', 'state'],
    registers: [registry],
    collect() {
      this.reset()
      for (const { address, state } of fleet.members()) this.set({ worker: address, state }, 1)
    },
  })
}

const fewest = ({ topology, missing }: Fleet): number => {
  if (missing().length > 0 || !topology) return 0
  return Math.min(...topology.replicas.flat().map((workers) => workers.length))
}

/** Counters of one gateway in Prometheus' text format. */
export const openMetrics = (model: string): Metrics => {
  const registry = new Registry()
  registry.setDefaultLabels({ model_name: model })
  collectDefaultMetrics({ register: registry })
  const series = openSeries(registry)
  /** As of the last report. */
  const faults = new Map<string, number>()
  return {
    registry,
    watch: (fleet) => openFleetSeries(registry, fleet),
    accepted: () => series.waiting.inc(),
    started(cached, prompt) {
      series.waiting.dec()
      series.running.inc()
      series.promptTokens.inc(prompt)
      series.queries.inc(prompt)
      series.hits.inc(cached)
    },
    token: () => series.generationTokens.inc(),
    firstToken: (seconds) => series.firstToken.observe(seconds),
    interToken: (seconds) => series.interToken.observe(seconds),
    finished(reason, seconds, wasStarted) {
      if (wasStarted) series.running.dec()
      else series.waiting.dec()
      series.success.inc({ finished_reason: reason })
      if (reason !== 'refused') series.endToEnd.observe(seconds)
    },
    batchRequest: (outcome) => series.batchRequests.inc({ outcome }),
    report(report) {
      series.cache.set(report.cacheShare)
      series.steps.inc(report.steps)
      series.stepRows.inc(report.rows)
      const { bytes: dispatched, ...times } = report.times
      series.bytes.inc(dispatched)
      for (const [name, timeMs] of Object.entries(times))
        series.phases.inc({ phase: name.replace(/Ms$/, '') }, timeMs / 1000)
      for (const [worker, layers] of Object.entries(report.expertRows))
        for (const [layer, experts] of layers.entries())
          for (const [expert, count] of experts?.entries() ?? [])
            if (count) series.rows.inc({ layer, expert, worker }, count)
      series.state.reset()
      for (const { address, state } of report.workers)
        for (const each of STATES) series.state.set({ worker: address, state: each }, each === state ? 1 : 0)
      for (const [kind, count] of Object.entries(report.counts)) {
        series.faults.inc({ kind }, count - (faults.get(kind) ?? 0))
        faults.set(kind, count)
      }
    },
  }
}
