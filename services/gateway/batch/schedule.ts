import assert from 'node:assert/strict'
import type { Beam, Sequence } from '../sequence.ts'

/** What a step may hold at most. */
export type Limits = {
  /** Tokens of one prompt run in one step. */
  chunk: number
  /** Sequences running at a time; each beam of a search counts. */
  maxSequences: number
  /** Token rows of one step. */
  maxBatchTokens: number
}

/** What the schedule knows of the cache. */
export type BlockCounts = {
  /** Blocks that no running sequence holds. */
  readonly freeBlocks: number
  /** By all beams of a sequence and its source. */
  held(sequence: Sequence): number
  blocksFor(tokens: number): number
}

/** Tokens [begin, end) of a sequence's beam, to run in one step. It yields logits, of its last token, where end is ids.length. */
export type Span = { sequence: Sequence; beam: Beam; begin: number; end: number }

/** Carried out in this order: fail, preempt, admit, rows. Then every row finds the blocks for its end. */
export type Plan = {
  /** More than the whole cache or a whole step: they can never run. */
  fail: Sequence[]
  /** Give up their blocks and are run again from the start. Latest first: put each at the head of waiting in this order. */
  preempt: Sequence[]
  /** The head of waiting, in order, to be put behind running. */
  admit: Sequence[]
  /** Those of one token (decode) first, then chunks of prompts, each part in arrival order. */
  rows: Span[]
}

/** Tokens left to run of each beam. */
const left = ({ beams: [{ ids, cached }] }: Sequence): number => ids.length - cached

/** Places of a step that a sequence takes, at most. */
export const seatsOf = ({ request: { search } }: Sequence): number => search?.beams ?? 1

const spans = (sequence: Sequence, tokens: number): Span[] =>
  sequence.beams.map((beam) => ({ sequence, beam, begin: beam.cached, end: beam.cached + tokens }))

const total = (sequences: readonly Sequence[], of: (sequence: Sequence) => number): number =>
  sequences.reduce((sum, sequence) => sum + of(sequence), 0)

/**
 * Chooses what the next step runs. Pure; waiting and running are in arrival order.
 *
 * Every running sequence is entitled to the blocks of all its ids, those of a prompt's later chunks included; while that is
 * more than there is, the latest is preempted, and nothing is admitted that would make it so. Hence a prompt once begun is
 * never stuck half way, the oldest sequence advances in every step, and a preempted one returns only after others have
 * given blocks back. Every decode row runs in every step, so the beams of a search advance together; it is entitled to the seats and
 * blocks of as many as it may have. A sequence is admitted only with a row, and there are never more seats taken than maxBatchTokens,
 * so decode rows leave room for a prompt. Admission keeps the order of arrival: a long prompt is not overtaken. A source enters whole
 * with its sequence; one that is longer than the budget enters last.
 */
export function schedule(state: {
  waiting: readonly Sequence[]
  running: readonly Sequence[]
  limits: Limits
  cache: BlockCounts
}): Plan {
  const { waiting, running, limits, cache } = state
  assert(limits.chunk >= 1 && limits.maxSequences >= 1 && limits.maxBatchTokens >= 1, 'limits are at least 1')
  const totalBlocks = cache.freeBlocks + total(running, cache.held)
  const blocks = (sequence: Sequence): number =>
    seatsOf(sequence) * cache.blocksFor(sequence.beams[0].ids.length) + cache.blocksFor(sequence.request.source.length)
  const places = Math.min(limits.maxSequences, limits.maxBatchTokens)
  const fits = (sequence: Sequence): boolean => blocks(sequence) <= totalBlocks && seatsOf(sequence) <= places

  const fail = [...running, ...waiting].filter((sequence) => !fits(sequence))
  const kept = running.filter(fits)
  let freeBlocks = totalBlocks - total(kept, blocks)
  const preempt: Sequence[] = []
  while (freeBlocks < 0) {
    const latest = kept.pop()
    assert(latest, 'one sequence that fits the cache alone is never preempted')
    preempt.push(latest)
    freeBlocks += blocks(latest)
  }

  const decode = kept.filter((sequence) => left(sequence) === 1).flatMap((sequence) => spans(sequence, 1))
  const prefill: Span[] = []
  let budget = limits.maxBatchTokens - decode.length
  const run = (sequence: Sequence): void => {
    const tokens = Math.min(left(sequence), limits.chunk, budget)
    assert(tokens >= 1, 'a running sequence has tokens left to run')
    ;(left(sequence) === 1 ? decode : prefill).push(...spans(sequence, tokens))
    budget -= tokens
  }
  for (const sequence of kept) if (left(sequence) !== 1 && budget > 0) run(sequence)

  const admit: Sequence[] = []
  let seats = places - total(kept, seatsOf)
  for (const sequence of preempt.length > 0 ? [] : waiting.filter(fits)) {
    if (seatsOf(sequence) > seats || budget <= 0 || blocks(sequence) > freeBlocks) break
    admit.push(sequence)
    seats -= seatsOf(sequence)
    freeBlocks -= blocks(sequence)
    run(sequence)
    budget -= sequence.request.source.length
  }
  return { fail, preempt, admit, rows: [...decode, ...prefill] }
}

/**
 * The row after its sequence was opened: moved up to the tokens that were found in the cache (beam.cached), of which the
 * plan could not know. It never has more tokens than before, and never none.
 */
export const advance = ({ sequence, beam, begin, end }: Span): Span => ({
  sequence,
  beam,
  begin: beam.cached,
  end: beam.cached + Math.min(end - begin, left(sequence)),
})
