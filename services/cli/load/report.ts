import { KINDS, type Kind } from './answer.ts'
import type { Pace } from './pace.ts'
import type { Summary } from './samples.ts'
import type { Result } from './tally.ts'

const WIDTH = 50
const LABEL_WIDTH = 40
const VALUE_WIDTH = 10
/** With fewer samples the nearest-rank 99th percentile is the largest of them. */
const P99_SAMPLES = 100
/** A client that sends this late measures itself. */
const LATE_MS = 50

export type Report = { result: Result; pace: Pace; inFlightMax: number }

const centred = (text: string, fill: string): string => {
  const before = Math.floor((WIDTH - text.length) / 2)
  return fill.repeat(before) + text + fill.repeat(WIDTH - text.length - before)
}

const line = (label: string, value: number | null, digits = 0): string =>
  `${`${label}:`.padEnd(LABEL_WIDTH)} ${(value === null ? '-' : value.toFixed(digits)).padEnd(VALUE_WIDTH)}`.trimEnd()

const perSecond = (count: number, durationS: number): number => (durationS > 0 ? count / durationS : 0)

const section = (title: string, name: string, summary: Summary | null): string[] => [
  centred(title, '-'),
  line(`Mean ${name} (ms)`, summary?.mean ?? null, 2),
  line(`Median ${name} (ms)`, summary?.median ?? null, 2),
  line(`P99 ${name} (ms)`, summary?.p99 ?? null, 2),
]

const MEASURES = [
  ['ttft', 'TTFT', 'Time to First Token'],
  ['tpot', 'TPOT', 'Time per Output Token (excl. 1st token)'],
  ['itl', 'ITL', 'Inter-token Latency'],
  ['e2el', 'E2EL', 'End-to-end Latency'],
] as const

/** The block `vllm bench serve` prints, so that results can be laid side by side, and what it does not know below. */
export const block = (report: Report): string => {
  const { result } = report
  const { durationS, completed, failed, inputTokens, outputTokens } = result
  const rows = [
    centred(' Serving Benchmark Result ', '='),
    line('Successful requests', completed),
    line('Failed requests', failed),
    line('Benchmark duration (s)', durationS, 2),
    line('Total input tokens', inputTokens),
    line('Total generated tokens', outputTokens),
    line('Request throughput (req/s)', perSecond(completed, durationS), 2),
    line('Output token throughput (tok/s)', perSecond(outputTokens, durationS), 2),
    line('Total Token throughput (tok/s)', perSecond(inputTokens + outputTokens, durationS), 2),
    ...MEASURES.flatMap(([key, name, title]) => section(title, name, result[key])),
    '='.repeat(WIDTH),
  ]
  return [...rows, ...notes(report)].join('\n')
}

const sampleNote = ({ result }: Report): string[] => {
  const counted = MEASURES.map(([key, name]) => `${name} ${result[key]?.count ?? 0}`).join(', ')
  const few = MEASURES.filter(([key]) => (result[key]?.count ?? 0) < P99_SAMPLES).map(([, name]) => name)
  const caution = few.length > 0 ? `; with fewer than ${P99_SAMPLES}, P99 is the maximum: ${few.join(', ')}` : ''
  return [`Samples: ${counted}${caution}.`]
}

const gapNote = ({ resumed, undisturbedGapMs, repeats }: Result): string[] => [
  `Longest gap between tokens: ${undisturbedGapMs.toFixed(1)} ms in streams that kept their connection.`,
  ...(resumed.streams > 0
    ? [
        `Resumed streams: ${resumed.streams}, taken up again ${resumed.resumes} times, longest gap between tokens ${resumed.longestGapMs.toFixed(1)} ms; all of them are counted above.`,
      ]
    : []),
  ...(repeats > 0 ? [`Requests sent again before their answer had begun: ${repeats}.`] : []),
]

const errorNotes = ({ errors }: Result): string[] =>
  Object.entries(errors).map(
    ([kind, { count, first }]) => `Failed, ${KINDS[kind as Kind]}: ${count}. The first: ${first}`,
  )

const paceNotes = ({ pace, inFlightMax }: Report): string[] => [
  ...(pace.waited > 0
    ? [
        `Arrivals that had to wait because ${inFlightMax} requests were under way (--max-concurrency): ${pace.waited}; their wait is in their latency.`,
      ]
    : []),
  ...(pace.unsent > 0 ? [`Arrivals that still waited at the end and were never sent: ${pace.unsent}.`] : []),
  ...(pace.lateMs > LATE_MS
    ? [`Requests were sent up to ${pace.lateMs.toFixed(0)} ms late: this machine was too busy to keep the pace.`]
    : []),
]

const notes = (report: Report): string[] => [
  ...sampleNote(report),
  ...gapNote(report.result),
  ...errorNotes(report.result),
  ...paceNotes(report),
  ...(report.result.stopped > 0 ? [`Under way when the run was stopped: ${report.result.stopped}.`] : []),
]

const summaryKeys = (key: string, summary: Summary | null): Record<string, number | null> => ({
  [`mean_${key}_ms`]: summary?.mean ?? null,
  [`median_${key}_ms`]: summary?.median ?? null,
  [`p99_${key}_ms`]: summary?.p99 ?? null,
  [`max_${key}_ms`]: summary?.max ?? null,
  [`samples_${key}`]: summary?.count ?? 0,
})

/** The same for programs; null where nothing was measured. */
export const json = ({ result, pace }: Report): Record<string, unknown> => ({
  duration: result.durationS,
  completed: result.completed,
  failed: result.failed,
  stopped: result.stopped,
  total_input: result.inputTokens,
  total_output: result.outputTokens,
  request_throughput: perSecond(result.completed, result.durationS),
  output_throughput: perSecond(result.outputTokens, result.durationS),
  total_token_throughput: perSecond(result.inputTokens + result.outputTokens, result.durationS),
  ...Object.assign({}, ...MEASURES.map(([key]) => summaryKeys(key, result[key]))),
  errors: Object.fromEntries(Object.entries(result.errors).map(([kind, { count }]) => [kind, count])),
  first_errors: Object.fromEntries(Object.entries(result.errors).map(([kind, { first }]) => [kind, first])),
  resumed_streams: result.resumed.streams,
  resumes: result.resumed.resumes,
  resumed_longest_gap_ms: result.resumed.longestGapMs,
  undisturbed_longest_gap_ms: result.undisturbedGapMs,
  repeated_requests: result.repeats,
  arrivals_waited: pace.waited,
  arrivals_unsent: pace.unsent,
  most_in_flight: pace.inFlightMost,
  send_delay_max_ms: pace.lateMs,
})
