/**
 * A token's choice of topK different experts, as the distribution with the given shares that assumes nothing else (conditional
 * Poisson sampling: a set's probability is the product of its experts' odds). Sums over sets are elementary symmetric polynomials.
 */

/** Shares are brought this close: experts that every row reaches have no finite odds. */
const CERTAIN = 1 - 1e-4
const ROUNDS = 20

/** e_0 … e_topK of the first n odds, for every n: sums[n · (topK + 1) + k]. */
const sumsOf = (odds: ArrayLike<number>, topK: number): Float64Array => {
  const width = topK + 1
  const sums = new Float64Array((odds.length + 1) * width)
  sums[0] = 1
  for (let n = 0; n < odds.length; n += 1)
    for (let k = 0; k <= topK; k += 1)
      sums[(n + 1) * width + k] = sums[n * width + k] + (k > 0 ? odds[n] * sums[n * width + k - 1] : 0)
  return sums
}

/** Sum over all sets of topK experts of the product of their odds. */
export const weightOf = (odds: ArrayLike<number>, topK: number): number => {
  const sums = sumsOf(odds, topK)
  return sums[sums.length - 1]
}

/** Odds under which a row reaches each expert with these shares, which sum to topK. */
export const oddsOf = (shares: ArrayLike<number>, topK: number): Float64Array => {
  const wanted = Float64Array.from(shares, (share) => Math.min(share, CERTAIN))
  const odds = wanted.map((share) => share / (1 - share))
  const width = topK + 1
  for (let round = 0; round < ROUNDS; round += 1) {
    const before = sumsOf(odds, topK)
    const after = sumsOf(Float64Array.from(odds).reverse(), topK)
    const all = before[before.length - 1]
    for (let e = 0; e < odds.length; e += 1) {
      let others = 0 // sets of topK − 1 without e
      for (let k = 0; k < topK; k += 1)
        others += before[e * width + k] * after[(odds.length - 1 - e) * width + topK - 1 - k]
      odds[e] *= wanted[e] / Math.min(1, (odds[e] * others) / all)
    }
  }
  return odds
}
