import type { TokenRows } from '../../../shared/model/rows.ts'
import { rowKernel } from '../../../shared/model/simd.ts'
import type { AssignmentRows } from './dispatch.ts'
import { NOBODY } from './lot.ts'
import type { Routes } from './route.ts'
import { scratch } from './scratch.ts'

/**
 * The residual stream after a layer's FFN: h + ((Σ_k weight·row) + shared), [T,H]. Every product and every sum is rounded to
 * fp32; the experts are summed from zero in the order of the routes, which is ascending by id, as in transformers. So the
 * bits depend neither on who computed the rows nor on when they came. A quantised row's weight is weight·scale/127, rounded once.
 * Dropped assignments add nothing. shared is null where a layer has no shared expert.
 * The result is scratch memory.
 */
export function combine(
  h: Float32Array,
  shared: Float32Array | null,
  { topK, weights }: Pick<Routes, 'topK' | 'weights'>,
  { sources, source, offset }: AssignmentRows,
  hidden: number,
): Float32Array {
  const out = scratch.floats(h.length)
  const kernel = rowKernel(hidden)
  const { sum, floats, bytes } = kernel
  const add = ({ rows, rowScale }: TokenRows, begin: number, weight: number): void => {
    if (rows instanceof Float32Array) {
      floats.set(rows.subarray(begin, begin + hidden))
      kernel.addFloats(weight)
    } else {
      bytes.set(rows.subarray(begin, begin + hidden))
      kernel.addBytes((weight * (rowScale?.[begin / hidden] ?? 0)) / 127)
    }
  }
  const residual = { rows: h, rowScale: null }
  const own = shared && { rows: shared, rowScale: null }
  for (let begin = 0, assignment = 0; begin < h.length; begin += hidden) {
    sum.fill(0)
    for (let k = 0; k < topK; k++, assignment++) {
      if (source[assignment] === NOBODY) continue
      add(sources[source[assignment]], offset[assignment], weights[assignment])
    }
    if (own) add(own, begin, 1)
    add(residual, begin, 1)
    out.set(sum, begin)
  }
  return out
}
