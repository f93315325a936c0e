import type { Router } from '../../shared/model/config.ts'
import { sigmoid } from './linear.ts'

/** Where each token row goes: ids [T,K] ascending within a row, weights [T,K] in the same order. */
export type Routes = { ids: Int32Array; weights: Float32Array }

const softmax = (logits: Float32Array): Float32Array => {
  const top = logits.reduce((a, b) => Math.max(a, b))
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - top))
  const sum = powers.reduce((a, b) => a + b)
  return Float32Array.from(powers, (power) => power / sum)
}

/** The router's logits [T,E] as affinities [T,E]: softmax of each row, or sigmoid of each value. */
export const affinities = (logits: Float32Array, experts: number, score: Router['score']): Float32Array => {
  if (score === 'sigmoid') return logits.map(sigmoid)
  const scores = new Float32Array(logits.length)
  for (let at = 0; at < logits.length; at += experts) scores.set(softmax(logits.subarray(at, at + experts)), at)
  return scores
}

/** Indices of the `count` largest values, largest first; the lowest index wins a tie. */
const largest = (values: ArrayLike<number>, count: number): number[] =>
  Array.from(values, (value, index) => ({ value, index }))
    .sort((a, b) => b.value - a.value || a.index - b.index)
    .slice(0, count)
    .map(({ index }) => index)

/** Choices whose group is not among the best become −∞. arXiv:2405.04434 §2.2.2 (max), arXiv:2412.19437 §2.1.2 (top2). */
const limitToGroups = (choice: Float32Array, groups: NonNullable<Router['groups']>): Float32Array => {
  const size = choice.length / groups.count
  const scores = Array.from({ length: groups.count }, (_, group) => {
    const best = choice
      .slice(group * size, (group + 1) * size)
      .sort()
      .reverse()
    return groups.score === 'max' ? best[0] : Math.fround(best[0] + best[1])
  })
  const kept = new Set(largest(scores, groups.keep))
  return choice.map((value, expert) => (kept.has(Math.floor(expert / size)) ? value : -Infinity))
}

/** Selects topK experts of one row of affinities [E] and weighs them. */
const routeRow = (scores: Float32Array, router: Router, topK: number, bias?: Float32Array) => {
  const biased = scores.map((score, expert) => score + (bias ? bias[expert] : 0))
  const choice = router.groups ? limitToGroups(biased, router.groups) : biased
  const ids = largest(choice, topK).sort((a, b) => a - b)
  const chosen = ids.map((id) => scores[id])
  const sum = chosen.reduce((a, b) => a + b, 0)
  const divisor = router.renormalise ? sum + router.renormalise.epsilon : 1
  return { ids, weights: chosen.map((score) => (score / divisor) * router.scale) }
}

/** Affinities [T,E] and the selection bias [E] of a router that has one → routes. */
export const route = (
  scores: Float32Array,
  moe: { experts: number; topK: number; router: Router },
  bias?: Float32Array,
): Routes => {
  const rows = scores.length / moe.experts
  const routes = { ids: new Int32Array(rows * moe.topK), weights: new Float32Array(rows * moe.topK) }
  for (let row = 0; row < rows; row++) {
    const { ids, weights } = routeRow(
      scores.subarray(row * moe.experts, (row + 1) * moe.experts),
      moe.router,
      moe.topK,
      bias,
    )
    routes.ids.set(ids, row * moe.topK)
    routes.weights.set(weights, row * moe.topK)
  }
  return routes
}
