import assert from 'node:assert/strict'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { Sampling, TokenLogprob } from '../sequence.ts'
import type { Constraint } from './constrain.ts'
import { keepLargest, kthLargest, nucleus } from './cut.ts'
import { argmax, tokenLogprob } from './logprob.ts'
import { uniform } from './philox.ts'

export type History = { prompt: readonly number[]; output: readonly number[] }

export type SampleOptions = {
  /** null: none; otherwise how many alternatives to report beside the chosen token. */
  logprobs: number | null
} & Partial<Constraint>

/**
 * Draws the next token from logits [V]; a pure function of its arguments, which it leaves as they are. The position that enters
 * the generator is prompt + output length, so a sequence resumed anywhere draws on as it would have.
 *
 * In this order, all in doubles: repetition penalty, presence and frequency penalties, logit bias, bans; then argmax where the
 * temperature is 0, else temperature, top-k, top-p and min-p (the order of transformers' GenerationMixin). Ties go to the lowest
 * id, at the cuts too, where transformers keeps every tied token. A forced token is drawn whatever the logits say, which its
 * log-probability tells all the same.
 * @throws MeshError INTERNAL on NaN or +∞ logits or when nothing is left to draw; INVALID_ARGUMENT on a logit_bias outside [0, V).
 */
export const sample = (
  logits: Float32Array,
  history: History,
  sampling: Sampling,
  choice: number,
  options: SampleOptions,
): { token: number; logprob: TokenLogprob | null } => {
  const greedy = argmax(logits) // Refuses NaN before anything is derived from it.
  const { logprobs, forced = null, banned = [] } = options
  const told = (token: number) => ({ token, logprob: logprobs === null ? null : tokenLogprob(logits, token, logprobs) })
  if (forced !== null) return told(forced)
  const adjusted = adjust(logits, history, sampling, banned)
  const best = adjusted === logits ? greedy : argmax(adjusted)
  if (adjusted[best] === -Infinity) {
    throw new MeshError(
      Code.INTERNAL,
      'Every token of the vocabulary has a logit of -Infinity, so no token can be chosen.',
    )
  }
  const position = history.prompt.length + history.output.length
  if (sampling.temperature === 0) return told(best)
  return told(draw(new Float64Array(adjusted), best, sampling, uniform(sampling.seed, choice, position)))
}

/** Penalties, bias and bans on a copy; the logits themselves where none of them is asked for. */
const adjust = (
  logits: Float32Array,
  history: History,
  sampling: Sampling,
  banned: readonly number[],
): Float32Array | Float64Array => {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = sampling
  const penalised = presencePenalty !== 0 || frequencyPenalty !== 0
  if (repetitionPenalty === 1 && !penalised && logitBias.size === 0 && banned.length === 0) return logits
  const values = new Float64Array(logits)
  if (repetitionPenalty !== 1) {
    // Keskar et al. 2019 (CTRL, arXiv:1909.05858) as in transformers' RepetitionPenaltyLogitsProcessor: once per distinct id.
    for (const id of new Set([...history.prompt, ...history.output])) {
      values[id] = values[id] > 0 ? values[id] / repetitionPenalty : values[id] * repetitionPenalty
    }
  }
  if (penalised) {
    // OpenAI's API reference: logit −= count · frequency + (count > 0) · presence.
    const counts = new Map<number, number>()
    for (const id of history.output) counts.set(id, (counts.get(id) ?? 0) + 1)
    for (const [id, count] of counts) values[id] -= count * frequencyPenalty + presencePenalty
  }
  for (const [id, bias] of logitBias) {
    if (!(Number.isInteger(id) && id >= 0 && id < values.length)) {
      const message = `logit_bias names token ${id}, but the vocabulary has tokens 0 to ${values.length - 1} only.`
      throw new MeshError(Code.INVALID_ARGUMENT, message, { param: 'logit_bias' })
    }
    values[id] += bias
  }
  for (const id of banned) if (id < values.length) values[id] = -Infinity
  return values
}

/** Draws from softmax(values / temperature) [V] after the cuts; overwrites values. `best` is their argmax, u in [0, 1). */
const draw = (values: Float64Array, best: number, sampling: Sampling, u: number): number => {
  const { temperature, topK, topP, minP } = sampling
  assert(temperature > 0, 'the temperature is checked where the request is accepted')
  if (topK > 0 && topK < values.length) keepLargest(values, kthLargest(values, topK), topK)
  // Weights are relative to the largest: exp of a difference cannot overflow, and min-p compares with exactly 1.
  const max = values[best]
  const weigh = (value: number): number => Math.exp((value - max) / temperature)
  const weights = new Float64Array(values.length)
  for (let id = 0; id < values.length; id++) if (values[id] > -Infinity) weights[id] = weigh(values[id])
  if (topP < 1) nucleus(values, weights, topP, weigh)
  let total = 0
  for (let id = 0; id < weights.length; id++) {
    if (weights[id] < minP) weights[id] = 0
    total += weights[id]
  }
  const target = u * total
  let sum = 0
  let last = best
  for (let id = 0; id < weights.length; id++) {
    if (weights[id] === 0) continue
    sum += weights[id]
    last = id
    if (sum > target) return id
  }
  return last // u · total can round up to total itself.
}
