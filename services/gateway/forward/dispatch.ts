import type { ExpertFrame } from '../../../shared/model/experts.ts'
import type { TokenRows } from '../../../shared/model/rows.ts'
import type { Attended } from './attend.ts'
import { Delivery } from './delivery.ts'
import type { Routes } from './route.ts'

/** A call to a runner. written: its last byte has left, so that a kernel may block this thread. */
export type Call = { written: Promise<void>; reply: Promise<Reply> }
/** Rows [A,H], unweighted, in the order of the assignments. */
export type Reply = TokenRows & {
  finite: boolean
  /** Of the answer on the wire. */
  bytes: number
  /** Time in the experts' kernels, microseconds. */
  computeUs: number
  /** Time it took of its runner, were that never idle, microseconds. */
  busyUs: number
}
export type CallOptions = { deadlineMs: number; signal: AbortSignal }
/** Something that runs experts: a worker's stream, or the experts in this process. */
export type Runner = {
  /** Shown in errors and metrics. */
  readonly name: string
  send(frame: ExpertFrame, options: CallOptions): Call
}

/** What became of a call, as its runner is judged by. */
export type Outcome =
  /** work: its rows, and the weights that were read for them, in rows. */
  | { kind: 'answered'; ms: number; work: number; busyUs: number }
  /** Somebody who was asked later answered first. */
  | { kind: 'late' }
  /** No answer long after one was due, and nobody else to ask. */
  | { kind: 'stalled' }
  /** The reply was no use, or there was none. */
  | { kind: 'failed'; error: unknown }
  /** Called off, through no fault of the runner's. */
  | { kind: 'dropped' }

/** Who can run experts now; the placement stage knows. */
export type Runners = {
  /**
   * The best live holder of an expert, null without one. Rows `planned` for a runner count as sent.
   */
  pick(
    layer: number,
    expert: number,
    options: { planned: ReadonlyMap<Runner, number>; avoid: ReadonlySet<Runner> },
  ): Runner | null
  /** How many hold an expert, whether they can be asked now or not. */
  copies(layer: number, expert: number): number
  /** How long an answer to so many assignments may take before somebody else is asked too, and before its runner is given up. */
  patience(runner: Runner, assignments: number): { overdueMs: number; stalledMs: number }
  /** Whether the budget of extra calls has one left, which is then spent. */
  mayHedge(): boolean
  sent(runner: Runner, assignments: number): void
  settled(runner: Runner, assignments: number, outcome: Outcome): void
  /** Resolves when somebody may hold an expert whom pick did not offer before. */
  changed(): Promise<void>
  /** Somebody to run again, to compare, what `by` ran; null when no comparison is due. */
  examiner(layer: number, expert: number, assignments: number, by: Runner): Runner | null
  /** `runner` ran what `by` had run; rows null: it did not. */
  examined(runner: Runner, by: Runner, frame: ExpertFrame, rows: { again: TokenRows | null; first: TokenRows }): void
}

export type DispatchLimits = {
  /** Longest wait for one layer's replies, and for an expert that nobody holds. */
  timeoutMs: number
  /** Bytes of one frame's request or reply; larger dispatches are cut into several frames. */
  frameBytesMax: number
}

/** The experts' unweighted rows: assignment a = t·K + k is sources[source[a]] from offset[a] on, H values; NOBODY's where it was dropped. */
export type AssignmentRows = { sources: readonly TokenRows[]; source: Uint32Array; offset: Uint32Array }

/** What has come back: the rows, the name of the runner that each source is from, and the longest that a runner's kernels took. */
export type Arrived = AssignmentRows & { names: readonly string[]; computeMs: number }

/** What dispatch gives and combine takes back: replies are still out. frames and requestBytes count those sent at first. */
export type Handle = { rows: Promise<Arrived>; requestBytes: number; frames: number }

/**
 * Sends a layer's token rows to the runners of their experts: per runner each row once, plus (row, expert) lists ascending by
 * expert. Resolves when every frame's last byte is on its way. What a runner does not answer, another does: see Delivery.
 */
export const dispatch = async (
  runners: Runners,
  layer: number,
  hidden: number,
  attended: Attended,
  routes: Routes,
  limits: DispatchLimits,
  signal: AbortSignal,
): Promise<Handle> => {
  const delivery = new Delivery({ runners, layer, hidden, attended, routes, limits, signal })
  await delivery.begin()
  return delivery
}
