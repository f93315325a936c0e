import type { Capacity, Router } from '../../../shared/model/config.ts'

/** In an id's place: the expert had no room for the row, so nothing is computed and nothing added. */
export const DROPPED = 2 ** 32 - 1

/** T rows' experts, ascending by id, and their gate weights: both [T,K]. An id may be DROPPED. */
export type Routes = { topK: number; ids: Uint32Array; weights: Float32Array }

/**
 * Chooses K experts for every row. affinity [T,E] are the router's scores in fp32, bias [E] is added for selection only. Ties go to the
 * lowest id. Formulas: DeepSeekMoE (arXiv:2401.06066) eq. 10, DeepSeek-V2 §2.2.2 (group maximum), DeepSeek-V3 (arXiv:2412.19437) §2.1.2
 * (sum of a group's two best, weights without the bias).
 * `starts` is null, or says where whole sequences begin, and at the end T: then each has the experts' capacity for itself.
 */
export const route = (
  affinity: Float32Array,
  experts: number,
  topK: number,
  router: Router,
  bias: Float32Array | null,
  starts: Uint32Array | null = null,
): Routes => {
  const rows = affinity.length / experts
  const ids = new Uint32Array(rows * topK)
  const weights = new Float32Array(rows * topK)
  const choice = new Float32Array(experts)
  for (let row = 0; row < rows; row++) {
    const scores = affinity.subarray(row * experts, (row + 1) * experts)
    for (let e = 0; e < experts; e++) choice[e] = bias ? scores[e] + bias[e] : scores[e]
    if (router.groups) keepBestGroups(choice, router.groups)
    const chosen = ids.subarray(row * topK, (row + 1) * topK)
    takeLargest(choice, chosen)
  }
  const full = starts && router.capacity ? overfull(ids, topK, experts, router.capacity, starts) : null
  for (let row = 0; row < rows; row++) {
    const chosen = ids.subarray(row * topK, (row + 1) * topK)
    const lost = full ? chosen.filter((_, rank) => full[row * topK + rank]) : NONE
    chosen.sort()
    const scores = affinity.subarray(row * experts, (row + 1) * experts)
    weigh(scores, chosen, router, weights.subarray(row * topK, (row + 1) * topK), lost)
  }
  return { topK, ids, weights }
}

const NONE = new Uint32Array(0)

/**
 * Whether each choice (ids [T,K], best first) finds its expert full: of a sequence, all first choices in the order of rows come before
 * all second ones, and those without room count too (Switch Transformers, arXiv:2101.03961 §2.2; GShard, arXiv:2006.16668 algorithm 1).
 */
const overfull = (
  ids: Uint32Array,
  topK: number,
  experts: number,
  { limit }: Capacity,
  starts: Uint32Array,
): Uint8Array => {
  const full = new Uint8Array(ids.length)
  for (let sequence = 0; sequence + 1 < starts.length; sequence++) {
    const [begin, end] = starts.subarray(sequence, sequence + 2)
    const room = 'rows' in limit ? limit.rows : Math.ceil(limit.share * (end - begin))
    const taken = new Uint32Array(experts)
    for (let rank = 0; rank < topK; rank++)
      for (let at = begin * topK + rank; at < end * topK; at += topK) if (taken[ids[at]]++ >= room) full[at] = 1
  }
  return full
}

/** Fills ids with the indices of the largest values, best first, and strikes them out of values. */
const takeLargest = (values: Float32Array, ids: Uint32Array): void => {
  for (let k = 0; k < ids.length; k++) {
    let best = 0
    for (let e = 1; e < values.length; e++) if (values[e] > values[best]) best = e
    ids[k] = best
    values[best] = STRUCK
  }
}

/** Below every score a struck-out expert could compete with; NaN scores are refused before routing. */
const STRUCK = -Infinity

const keepBestGroups = (choice: Float32Array, { count, keep, score }: NonNullable<Router['groups']>): void => {
  const size = choice.length / count
  const groupScores = new Float32Array(count)
  for (let group = 0; group < count; group++) {
    let first = STRUCK
    let second = STRUCK
    for (const value of choice.subarray(group * size, (group + 1) * size)) {
      if (value > first) {
        second = first
        first = value
      } else if (value > second) second = value
    }
    groupScores[group] = score === 'max' ? first : first + second
  }
  const kept = new Uint32Array(keep)
  takeLargest(groupScores, kept)
  for (let group = 0; group < count; group++) {
    if (!kept.includes(group)) choice.fill(STRUCK, group * size, (group + 1) * size)
  }
}

/** The chosen experts' weights, in the order of ids; `lost` ones become DROPPED. */
const weigh = (
  scores: Float32Array,
  ids: Uint32Array,
  { renormalise, scale, capacity }: Router,
  weights: Float32Array,
  lost: Uint32Array,
): void => {
  const summed = capacity?.dropFirst ? ids.filter((id) => !lost.includes(id)) : ids
  let sum = 0
  for (const id of summed) sum = Math.fround(sum + scores[id])
  const divisor = renormalise ? Math.fround(sum + renormalise.epsilon) : 1
  for (let k = 0; k < ids.length; k++) {
    if (lost.includes(ids[k])) ids[k] = DROPPED
    else weights[k] = Math.fround(scores[ids[k]] / divisor) * scale
  }
}
