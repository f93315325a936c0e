import { Code, MeshError } from '../../../shared/errors.ts'
import type { Outcome } from '../forward/dispatch.ts'
import { Latency } from './latency.ts'

/**
 * In a row; then the runner is ejected. Two happen by themselves every few seconds where more processes than cores compute, three
 * hardly ever.
 */
const STRIKES_MAX = 3
/** From ejection to the first trial, doubled by each that fails. */
const TRIAL_FIRST_MS = 250
const TRIAL_LAST_MS = 30_000
/** Before this no answer is overdue: on a busy machine a thread may wait as long for a core. */
const OVERDUE_MIN_MS = 10
/** An answer is overdue at this many times what was predicted. */
const OVERDUE_FACTOR = 3
/** And its runner given up at this many times, or the least. */
const STALLED_FACTOR = 10
const STALLED_MIN_MS = 250
/** While nothing is known of a runner. */
const UNKNOWN = { overdueMs: 1_000, stalledMs: 10_000 }

/**
 * live: asked. ejected: too slow or wrong too often; asked when nobody else is there, live again after a trial.
 * lost: its stream broke, live again when it answers. liar: it computed wrong values; never asked.
 */
export type State = 'live' | 'ejected' | 'lost' | 'liar'

/** What the last calls say of a runner. Times are milliseconds of one monotonic clock. */
export class Health {
  state: State = 'live'
  /** Assignments sent and not settled. */
  outstanding = 0
  latency = new Latency()
  #strikes = 0
  #trialWaitMs = TRIAL_FIRST_MS
  #trialAtMs = 0

  patience(): { overdueMs: number; stalledMs: number } {
    if (!this.latency.known) return UNKNOWN
    const predictedMs = this.latency.predictMs(this.outstanding)
    return {
      overdueMs: Math.max(OVERDUE_MIN_MS, OVERDUE_FACTOR * predictedMs),
      stalledMs: Math.max(STALLED_MIN_MS, STALLED_FACTOR * predictedMs),
    }
  }

  /** Takes in what became of a call; true when the state has changed. */
  settle(assignments: number, outcome: Outcome, nowMs: number): boolean {
    this.outstanding -= assignments
    const before = this.state
    if (outcome.kind === 'answered') {
      this.latency.add(assignments, outcome.ms)
      this.#strikes = 0
    } else if (outcome.kind === 'late') this.#strike(nowMs)
    else if (outcome.kind === 'stalled') this.#eject(nowMs)
    else if (outcome.kind === 'failed') this.#fail(MeshError.from(outcome.error), nowMs)
    return this.state !== before
  }

  /** Whether an ejected runner may prove itself now. */
  trialDue(nowMs: number): boolean {
    return this.state === 'ejected' && nowMs >= this.#trialAtMs
  }

  /** A trial is under way: the next would be due after twice the time. */
  beginTrial(nowMs: number): void {
    this.#trialWaitMs = Math.min(TRIAL_LAST_MS, this.#trialWaitMs * 2)
    this.#trialAtMs = nowMs + this.#trialWaitMs
  }

  /** The trial went well, or a lost runner answers again. */
  recover(): void {
    if (this.state === 'lost') this.latency = new Latency()
    else this.#trialWaitMs = TRIAL_FIRST_MS
    this.state = 'live'
    this.#strikes = 0
  }

  condemn(): void {
    this.state = 'liar'
  }

  #fail({ code }: MeshError, nowMs: number): void {
    if (code === Code.UNAVAILABLE || code === Code.UNAUTHENTICATED) {
      if (this.state !== 'liar') this.state = 'lost'
    } else if (!BLAMELESS.has(code)) this.#strike(nowMs)
  }

  #strike(nowMs: number): void {
    this.#strikes++
    if (this.#strikes >= STRIKES_MAX) this.#eject(nowMs)
  }

  #eject(nowMs: number): void {
    if (this.state !== 'live') return
    this.state = 'ejected'
    this.#trialAtMs = nowMs + this.#trialWaitMs
  }
}

/** An expert that was unloaded, a full queue and a call that was called off say nothing of a runner's health. */
const BLAMELESS: ReadonlySet<number> = new Set([
  Code.NOT_FOUND,
  Code.FAILED_PRECONDITION,
  Code.RESOURCE_EXHAUSTED,
  Code.CANCELLED,
])
