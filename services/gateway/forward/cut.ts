/**
 * The k-th largest of the values, 1 ≤ k ≤ their number: Hoare's quickselect ("Algorithm 65: Find", CACM 1961) on a copy,
 * so a cut of a 100,000-token vocabulary needs no sort.
 */
export const kthLargest = (values: Float64Array, k: number): number => {
  const work = values.slice()
  const target = work.length - k
  let from = 0
  let to = work.length - 1
  while (from < to) {
    const pivot = work[(from + to) >>> 1]
    let left = from
    let right = to
    while (left <= right) {
      while (work[left] < pivot) left++
      while (work[right] > pivot) right--
      if (left > right) break
      const swapped = work[left]
      work[left++] = work[right]
      work[right--] = swapped
    }
    if (target <= right) to = right
    else if (target >= left) from = left
    else break
  }
  return work[target]
}

/**
 * Keeps `count` values, setting the others to −∞: those above the cutoff, then those equal to it from the lowest id on.
 * The cutoff is the count-th largest value.
 */
export const keepLargest = (values: Float64Array, cutoff: number, count: number): void => {
  let ties = count
  for (let id = 0; id < values.length; id++) if (values[id] > cutoff) ties--
  for (let id = 0; id < values.length; id++) {
    if (values[id] > cutoff) continue
    if (values[id] === cutoff && ties > 0) ties--
    else values[id] = -Infinity
  }
}

/**
 * Top-p (Holtzman et al. 2020, arXiv:1904.09751): going down from the largest value, a token stays while the weight before it is
 * below topP of the whole; the first always stays. Tokens that go get weight 0 and value −∞. values and weights are [V],
 * weights[id] = weigh(values[id]), and weigh rises with its argument.
 */
export const nucleus = (
  values: Float64Array,
  weights: Float64Array,
  topP: number,
  weigh: (value: number) => number,
): void => {
  let total = 0
  for (let id = 0; id < weights.length; id++) total += weights[id]
  // Tokens below this weigh less than (1 − topP) / 2 of the whole all together, so none of them can be in the nucleus: only the
  // few above it are sorted.
  const floor = ((1 - topP) * total) / (2 * weights.length)
  const sorted = values.filter((value, id) => value > -Infinity && weights[id] >= floor).sort()
  let before = 0
  let count = 0
  while (count < sorted.length && (count === 0 || before < topP * total)) {
    before += weigh(sorted[sorted.length - 1 - count])
    count++
  }
  keepLargest(values, sorted[sorted.length - count], count)
  for (let id = 0; id < weights.length; id++) if (values[id] === -Infinity) weights[id] = 0
}
