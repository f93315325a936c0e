import assert from 'node:assert/strict'
import type { Sequence } from '../sequence.ts'

/** What a step may hold at most. */
export type Limits = {
  /** Tokens of one prompt run in one step. */
  chunk: number
  /** Sequences running at a time. */
  maxSequences: number
  /** Token rows of one step. */
  maxBatchTokens: number
}

/** What the schedule knows of the cache. */
export type BlockCounts = {
  /** Blocks that no running sequence holds. */
  readonly freeBlocks: number
  /** By a sequence and its source. */
  held(id: string): number
  blocksFor(tokens: number): number
}

/** Tokens [begin, end) of a sequence, to run in one step. It yields logits, of its last token, where end is ids.length. */
export type Span = { sequence: Sequence; begin: number; end: number }

/** Carried out in this order: fail, preempt, admit, rows. Then every row finds the blocks for its end. */
export type Plan = {
  /** Longer than the whole cache: they can never run. */
  fail: Sequence[]
  /** Give up their blocks and are run again from the start. Latest first: put each at the head of waiting in this order. */
  preempt: Sequence[]
  /** The head of waiting, in order, to be put behind running. */
  admit: Sequence[]
  /** Those of one token (decode) first, then chunks of prompts, each part in arrival order. */
  rows: Span[]
}

const left = (sequence: Sequence): number => sequence.ids.length - sequence.cached

const span = (sequence: Sequence, tokens: number): Span => ({
  sequence,
  begin: sequence.cached,
  end: sequence.cached + tokens,
})

/**
 * Chooses what the next step runs. Pure; waiting and running are in arrival order.
 *
 * Every running sequence is entitled to the blocks of all its ids, those of a prompt's later chunks included; while that is
 * more than there is, the latest is preempted, and nothing is admitted that would make it so. Hence a prompt once begun is
 * never stuck half way, the oldest sequence advances in every step, and a preempted one returns only after others have
 * given blocks back. Every decode row runs in every step. A sequence is admitted only with a row, so that there are never
 * more of them than maxBatchTokens, and decode rows leave room for a prompt. Admission keeps the order of arrival: a long
 * prompt is not overtaken. A source enters whole with its sequence; one that is longer than the budget enters last.
 */
export function schedule(state: {
  waiting: readonly Sequence[]
  running: readonly Sequence[]
  limits: Limits
  cache: BlockCounts
}): Plan {
  const { waiting, running, limits, cache } = state
  assert(limits.chunk >= 1 && limits.maxSequences >= 1 && limits.maxBatchTokens >= 1, 'limits are at least 1')
  const totalBlocks = running.reduce((sum, { request }) => sum + cache.held(request.id), cache.freeBlocks)
  const blocks = ({ ids, request: { source } }: Sequence): number =>
    cache.blocksFor(ids.length) + cache.blocksFor(source.length)
  const fits = (sequence: Sequence): boolean => blocks(sequence) <= totalBlocks

  const fail = [...running, ...waiting].filter((sequence) => !fits(sequence))
  const kept = running.filter(fits)
  let freeBlocks = kept.reduce((free, sequence) => free - blocks(sequence), totalBlocks)
  const preempt: Sequence[] = []
  while (freeBlocks < 0) {
    const latest = kept.pop()
    assert(latest, 'one sequence that fits the cache alone is never preempted')
    preempt.push(latest)
    freeBlocks += blocks(latest)
  }

  const decode = kept.filter((sequence) => left(sequence) === 1).map((sequence) => span(sequence, 1))
  const prefill: Span[] = []
  let budget = limits.maxBatchTokens - decode.length
  const run = (sequence: Sequence): void => {
    const tokens = Math.min(left(sequence), limits.chunk, budget)
    assert(tokens >= 1, 'a running sequence has tokens left to run')
    ;(left(sequence) === 1 ? decode : prefill).push(span(sequence, tokens))
    budget -= tokens
  }
  for (const sequence of kept) if (left(sequence) !== 1 && budget > 0) run(sequence)

  const admit: Sequence[] = []
  const seats = limits.maxSequences - kept.length
  for (const sequence of preempt.length > 0 ? [] : waiting.filter(fits)) {
    if (admit.length >= seats || budget <= 0 || blocks(sequence) > freeBlocks) break
    admit.push(sequence)
    freeBlocks -= blocks(sequence)
    run(sequence)
    budget -= sequence.request.source.length
  }
  return { fail, preempt, admit, rows: [...decode, ...prefill] }
}

/**
 * The row after its sequence was opened: moved up to the tokens that were found in the cache (sequence.cached), of which the
 * plan could not know. It never has more tokens than before, and never none.
 */
export const advance = ({ sequence, begin, end }: Span): Span => span(sequence, Math.min(end - begin, left(sequence)))
