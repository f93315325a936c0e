import assert from 'node:assert/strict'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { TokenLogprob } from '../sequence.ts'

/**
 * The lowest id among the largest logits [V]; −∞ is a logit like any other.
 * @throws MeshError INTERNAL where a logit is NaN or +∞: no answer made from it would mean anything.
 */
export const argmax = (logits: Float32Array | Float64Array): number => {
  let best = 0
  let most = -Infinity
  const look = (begin: number, end: number): void => {
    for (let id = begin; id < end; id++) {
      const logit = logits[id]
      if (logit <= most) continue
      if (!(logit < Infinity)) throw meaningless(id, logit)
      best = id
      most = logit
    }
  }
  // Every token of every stream is chosen from a hundred thousand: four by four, of which hardly any need a look.
  const whole = logits.length - (logits.length % 4)
  for (let id = 0; id < whole; id += 4) {
    const none = logits[id] <= most && logits[id + 1] <= most && logits[id + 2] <= most && logits[id + 3] <= most
    if (!none) look(id, id + 4)
  }
  look(whole, logits.length)
  return best
}

const meaningless = (id: number, logit: number): MeshError =>
  new MeshError(Code.INTERNAL, `The model gave ${logit} as the logit of token ${id}, so no token can be chosen.`)

/** Ids of the `count` largest logits, largest first, equal ones in id order. Meant for a small count: O(V + count · hits). */
export const largest = (logits: Float32Array, count: number): number[] => {
  const top: number[] = []
  if (count === 0) return top
  for (let id = 0; id < logits.length; id++) {
    if (top.length === count && logits[id] <= logits[top[count - 1]]) continue
    let at = top.length
    while (at > 0 && logits[top[at - 1]] < logits[id]) at--
    top.splice(at, 0, id)
    if (top.length > count) top.pop()
  }
  return top
}

/**
 * Log-softmax of logits [V], summed in doubles in id order: the natural log of a token's probability, −∞ for one of none. NaN
 * where every logit is −∞.
 * @throws MeshError INTERNAL where a logit is NaN or +∞.
 */
export const logSoftmax = (logits: Float32Array): ((id: number) => number) => {
  const max = logits[argmax(logits)]
  let sum = 0
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id] - max)
  const logSum = Math.log(sum)
  return (id) => logits[id] - max - logSum
}

/**
 * The log-probability of token `id` and of the `count` likeliest tokens, of the model's own logits [V], before penalties, bias,
 * temperature and cuts (as OpenAI's and vLLM's default).
 */
export const tokenLogprob = (logits: Float32Array, id: number, count: number): TokenLogprob => {
  assert(id >= 0 && id < logits.length, `token ${id} is outside the vocabulary of ${logits.length}`)
  const logprob = logSoftmax(logits)
  return {
    id,
    logprob: logprob(id),
    top: largest(logits, count).map((token) => ({ id: token, logprob: logprob(token) })),
  }
}
