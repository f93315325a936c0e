import { Code, MeshError } from '../../../shared/errors.ts'
import type { ModelConfig } from '../../../shared/model/config.ts'
import type { Rope } from '../../../shared/model/rope.ts'
import type { Span } from '../batch/schedule.ts'
import type { Sequence } from '../sequence.ts'
import type { Attended } from './attend.ts'
import { allFinite } from './rows.ts'

/** One step's token rows: the spans one after the other. */
export type Batch = {
  spans: readonly Span[]
  /** First row of each span, and at the end T. */
  starts: Uint32Array
  /** T */
  rows: number
  /** [T,d/2] */
  cos: Float32Array
  sin: Float32Array
  /** Sequences that failed by their own numbers. Their rows are zeroed and go on as padding, so that no neighbour notices. */
  failed: Map<Sequence, MeshError>
}

/** Runs what concerns one sequence; when it throws, that sequence alone fails. False: it has failed, now or before. */
export const isolate = (batch: Batch, sequence: Sequence, action: () => void): boolean => {
  if (batch.failed.has(sequence)) return false
  try {
    action()
    return true
  } catch (error) {
    batch.failed.set(sequence, MeshError.from(error))
    return false
  }
}

export const makeBatch = (spans: readonly Span[], rope: Rope, ropeDim: number): Batch => {
  const starts = new Uint32Array(spans.length + 1)
  spans.forEach(({ begin, end }, i) => {
    starts[i + 1] = starts[i] + end - begin
  })
  const rows = starts[spans.length]
  const cos = new Float32Array((rows * ropeDim) / 2)
  const sin = new Float32Array((rows * ropeDim) / 2)
  spans.forEach(({ sequence, begin, end }, i) => {
    const promptLength = sequence.request.prompt.length
    for (let p = begin; p < end; p++) rope.write(p, promptLength, cos, sin, starts[i] + p - begin)
  })
  return { spans, starts, rows, cos, sin, failed: new Map() }
}

/**
 * Fails the sequences whose rows are not finite, and zeroes those rows: a NaN must reach neither a worker nor the choice of experts.
 */
export const checkFinite = (batch: Batch, layer: number, attended: Attended, { hidden, moe }: ModelConfig): void => {
  const { h, rows, scale, affinity } = attended
  for (const [i, { sequence }] of batch.spans.entries()) {
    const part = <A extends Float32Array | Uint8Array>(values: A, width: number) =>
      values.subarray(batch.starts[i] * width, batch.starts[i + 1] * width) as A
    const ok = isolate(batch, sequence, () => {
      const finite = allFinite(part(h, hidden)) && (!affinity || allFinite(part(affinity, moe.experts)))
      if (!finite) throw new MeshError(Code.INTERNAL, `layer ${layer} gave values that are not finite for this request`)
    })
    if (ok) continue
    part(h, hidden).fill(0)
    part(rows, hidden).fill(0)
    if (scale) part(scale, 1).fill(0)
    if (affinity) part(affinity, moe.experts).fill(0)
  }
}
