import type { Kind } from './answer.ts'
import type { Outcome } from './ask.ts'
import { openSamples, type Summary } from './samples.ts'

/** What a load run came to. Times in ms, rates per second; a summary is null where nothing was measured. */
export type Result = {
  durationS: number
  completed: number
  failed: number
  /** Under way when the run was ended by hand. */
  stopped: number
  /** Of those completed. */
  inputTokens: number
  outputTokens: number
  ttft: Summary | null
  tpot: Summary | null
  itl: Summary | null
  e2el: Summary | null
  errors: Partial<Record<Kind, { count: number; first: string }>>
  /** Completed over more than one connection: how many, over how many breaks, and their longest gap between tokens. */
  resumed: { streams: number; resumes: number; longestGapMs: number }
  /** Longest gap between tokens of those that kept their connection; what computes them may still have changed. */
  undisturbedGapMs: number
  /** Sent again before an answer had begun. */
  repeats: number
}

export type Tally = {
  /** `intendedMs`: when the request should have been sent, on the clock of the outcome. */
  add(outcome: Outcome, intendedMs: number): void
  readonly counts: { readonly done: number; readonly failed: number; readonly resumes: number }
  result(durationMs: number): Result
}

/**
 * Adds up outcomes. Latencies run from the intended start, so that a client that falls behind shows, and are those of complete
 * answers: TTFT to the first token, E2EL to the last, TPOT the time after the first token over the tokens after it, ITL each
 * gap between token events.
 */
export const openTally = (): Tally => {
  const [ttft, tpot, itl, e2el] = [openSamples(), openSamples(), openSamples(), openSamples()]
  const errors: Result['errors'] = {}
  const counts = { done: 0, failed: 0, stopped: 0, inputTokens: 0, outputTokens: 0, resumes: 0, repeats: 0 }
  const resumed = { streams: 0, resumes: 0, longestGapMs: 0 }
  let undisturbedGapMs = 0

  const addLatencies = ({ heard }: Outcome, intendedMs: number): void => {
    const { firstMs, lastMs, gapsMs, tokens } = heard
    if (firstMs === null || lastMs === null) return
    ttft.add(firstMs - intendedMs)
    e2el.add(lastMs - intendedMs)
    if (tokens > 1) tpot.add((lastMs - firstMs) / (tokens - 1))
    for (const gap of gapsMs) itl.add(gap)
  }

  const addGaps = ({ heard, resumes }: Outcome): void => {
    const longest = heard.gapsMs.reduce((most, gap) => Math.max(most, gap), 0)
    if (resumes === 0) {
      undisturbedGapMs = Math.max(undisturbedGapMs, longest)
      return
    }
    resumed.streams += 1
    resumed.resumes += resumes
    resumed.longestGapMs = Math.max(resumed.longestGapMs, longest)
  }

  return {
    counts,
    add(outcome, intendedMs) {
      const { heard, fault, stopped } = outcome
      counts.resumes += outcome.resumes
      counts.repeats += outcome.repeats
      if (stopped) counts.stopped += 1
      else if (fault) {
        counts.failed += 1
        const entry = errors[fault.kind] ?? { count: 0, first: fault.message }
        errors[fault.kind] = { ...entry, count: entry.count + 1 }
      } else {
        counts.done += 1
        counts.inputTokens += heard.usage?.prompt_tokens ?? 0
        counts.outputTokens += heard.ids?.length ?? heard.usage?.completion_tokens ?? heard.tokens
        addLatencies(outcome, intendedMs)
        addGaps(outcome)
      }
    },
    result: (durationMs) => ({
      durationS: durationMs / 1000,
      completed: counts.done,
      failed: counts.failed,
      stopped: counts.stopped,
      inputTokens: counts.inputTokens,
      outputTokens: counts.outputTokens,
      ttft: ttft.summary(),
      tpot: tpot.summary(),
      itl: itl.summary(),
      e2el: e2el.summary(),
      errors,
      resumed,
      undisturbedGapMs,
      repeats: counts.repeats,
    }),
  }
}
