import type { Capacity, Router } from '../../shared/model/config.ts'
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

/** The topK experts of one row of affinities [E], best first. */
const choose = (scores: Float32Array, router: Router, topK: number, bias?: Float32Array): number[] => {
  const biased = scores.map((score, expert) => score + (bias ? bias[expert] : 0))
  return largest(router.groups ? limitToGroups(biased, router.groups) : biased, topK)
}

/**
 * Which of a sequence's assignments its experts have room for, by row and rank: all first choices in the order of rows, then all second
 * ones; those without room count too (arXiv:2101.03961 §2.2; for two choices, arXiv:2006.16668 algorithm 1, as fairseq has it).
 */
const keep = (chosen: readonly number[][], experts: number, { limit }: Capacity): boolean[][] => {
  const room = 'rows' in limit ? limit.rows : Math.ceil(limit.share * chosen.length)
  const taken = new Array<number>(experts).fill(0)
  const kept = chosen.map((ids) => ids.map(() => true))
  for (let rank = 0; rank < chosen[0].length; rank++)
    chosen.forEach((ids, row) => {
      kept[row][rank] = taken[ids[rank]]++ < room
    })
  return kept
}

/**
 * Affinities [T,E] and the selection bias [E] of a router that has one → routes. `whole`: the rows are all of an encoder's sequence, so
 * capacity counts, and what is dropped weighs 0; else each row is routed alone.
 */
export const route = (
  scores: Float32Array,
  { experts, topK, router }: { experts: number; topK: number; router: Router },
  bias?: Float32Array,
  whole = false,
): Routes => {
  const rows = Array.from({ length: scores.length / experts }, (_, row) =>
    scores.subarray(row * experts, (row + 1) * experts),
  )
  const chosen = rows.map((row) => choose(row, router, topK, bias))
  const { capacity, renormalise, scale } = router
  const kept = whole && capacity ? keep(chosen, experts, capacity) : null
  const routes = { ids: new Int32Array(rows.length * topK), weights: new Float32Array(rows.length * topK) }
  rows.forEach((row, at) => {
    const left = (id: number) => kept?.[at][chosen[at].indexOf(id)] ?? true
    const ids = chosen[at].toSorted((a, b) => a - b)
    const summed = capacity?.dropFirst ? ids.filter(left) : ids
    const sum = summed.reduce((total, id) => total + row[id], 0)
    const divisor = renormalise ? sum + renormalise.epsilon : 1
    routes.ids.set(ids, at * topK)
    routes.weights.set(
      ids.map((id) => (left(id) ? (row[id] / divisor) * scale : 0)),
      at * topK,
    )
  })
  return routes
}
