import assert from 'node:assert/strict'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { BeamSettings, FinishReason, GenerationRequest } from '../sequence.ts'
import type { Constraint } from './constrain.ts'
import { largest, logSoftmax } from './logprob.ts'

export type BeamOptions = BeamSettings & Pick<GenerationRequest, 'maxTokens' | 'stopIds'>

export type Hypothesis = {
  output: readonly number[]
  /** By output token, the place among the live beams of that step whose logits it was chosen from; the last is the parent. */
  places: readonly number[]
  /** Σ log p of the output, where a forced token counts 0. */
  sum: number
}

/** Its length counts generated tokens, the one that ends it included. */
export type Finished = Hypothesis & { score: number; finish: Extract<FinishReason, 'stop' | 'length'> }

/** One request's search between two steps. Plain data. */
export type Search = {
  /** At most B, best first; all outputs are of one length. */
  live: readonly Hypothesis[]
  /** At most B, best first. */
  finished: readonly Finished[]
  done: boolean
}

/** Before the first step one beam is live, the empty output: its logits are those behind the prompt. */
export const startSearch = (): Search => ({
  live: [{ output: [], places: [], sum: 0 }],
  finished: [],
  done: false,
})

/**
 * The search after one more token; rows: logits [V] of every live beam, in order; `allowed` is what may follow an output. A pure
 * function of its arguments.
 *
 * Beam search as GenerationMixin._beam_search of transformers 4.50 and later: of all continuations of live beams the best
 * (1 + stop ids) · B, at least 2 · B, are looked at. Those that end, by a stop id or at maxTokens, are finished if they are among
 * the best B; the best B of the others live on. Log-probabilities are of the model's own logits: what may not be generated is
 * left out, and the rest keeps its share. Equal sums go by place of the parent, then larger logit, then lower id.
 * Otherwise than there, continuations of no probability are dropped, so fewer than B beams may live.
 * @throws MeshError INTERNAL on NaN or +∞ logits, or when nothing is left to choose and nothing is finished.
 */
export const advanceSearch = (
  search: Search,
  rows: readonly Float32Array[],
  allowed: (output: readonly number[]) => Constraint,
  options: BeamOptions,
): Search => {
  const { beams, stopIds, maxTokens, lengthPenalty } = options
  assert(!search.done && rows.length === search.live.length, 'there are logits for every live beam')
  assert(beams >= 1 && search.live[0].output.length < maxTokens, 'there is a token to generate')
  const looked = Math.max(2, 1 + stopIds.length) * beams
  const best = search.live
    .flatMap((beam, place) => continuations(beam, place, rows[place], allowed(beam.output), looked))
    .sort((a, b) => b.sum - a.sum)
    .slice(0, looked)
  const length = search.live[0].output.length + 1
  const finishOf = ({ output }: Hypothesis): Finished['finish'] | null => {
    const forced = length >= maxTokens && allowed(output.slice(0, -1)).forced !== null
    if (!forced && stopIds.includes(output[length - 1])) return 'stop'
    return length >= maxTokens ? 'length' : null
  }
  const ended = best.slice(0, beams).flatMap((beam): Finished[] => {
    const finish = finishOf(beam)
    return finish ? [{ ...beam, score: beam.sum / length ** lengthPenalty, finish }] : []
  })
  const live = best.filter((beam) => finishOf(beam) === null).slice(0, beams)
  const finished = [...search.finished, ...ended].sort((a, b) => b.score - a.score).slice(0, beams)
  if (live.length === 0 && finished.length === 0)
    throw new MeshError(Code.INTERNAL, 'No token of the vocabulary has a probability, so no beam can go on.')
  return {
    live,
    finished,
    done: live.length === 0 || (finished.length === beams && settled(live[0], finished, options)),
  }
}

/** The best output so far; once the search is done, the answer. */
export const bestOutput = ({ finished }: Search): Finished => {
  assert(finished.length > 0, 'a search that is done has a finished output')
  return finished[0]
}

/** The likeliest continuations of one beam, at most `count`. */
const continuations = (
  { output, places, sum }: Hypothesis,
  place: number,
  logits: Float32Array,
  { forced, banned }: Constraint,
  count: number,
): Hypothesis[] => {
  const logprob = logSoftmax(logits) // Refuses NaN, whatever is forced.
  const follow = (id: number, more: number): Hypothesis => ({
    output: [...output, id],
    places: [...places, place],
    sum: sum + more,
  })
  if (forced !== null) return [follow(forced, 0)]
  const free = banned.length > 0 ? logits.slice() : logits
  for (const id of banned) if (id < free.length) free[id] = -Infinity
  return largest(free, count)
    .filter((id) => free[id] > -Infinity)
    .map((id) => follow(id, logprob(id)))
}

/** Whether B finished outputs are enough. */
const settled = (best: Hypothesis, finished: readonly Finished[], options: BeamOptions): boolean => {
  const { earlyStopping, lengthPenalty, maxTokens } = options
  if (earlyStopping === true) return true
  const length = earlyStopping === 'never' && lengthPenalty > 0 ? maxTokens : best.output.length
  return best.sum / length ** lengthPenalty <= finished[finished.length - 1].score
}
