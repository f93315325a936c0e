import { Code, MeshError } from '../../../shared/errors.ts'
import type { Rope } from '../../../shared/model/rope.ts'
import { allFinite } from '../../../shared/model/rows.ts'
import type { Span } from '../batch/schedule.ts'
import type { Sequence } from '../sequence.ts'

/** One step's token rows: the spans one after the other. */
export type Batch = {
  /** An encoder's rows are those of whole sources, from position 0 on. */
  stack: 'encoder' | 'decoder'
  spans: readonly Span[]
  /** First row of each span, and at the end T. */
  starts: Uint32Array
  /** T */
  rows: number
  /** [T,d/2]; empty where positions are not rope. */
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

export const makeBatch = (
  spans: readonly Span[],
  rope: { angles: Rope; dim: number } | null,
  stack: Batch['stack'],
): Batch => {
  const starts = new Uint32Array(spans.length + 1)
  spans.forEach(({ begin, end }, i) => {
    starts[i + 1] = starts[i] + end - begin
  })
  const rows = starts[spans.length]
  const half = rope ? rope.dim / 2 : 0
  const cos = new Float32Array(rows * half)
  const sin = new Float32Array(rows * half)
  spans.forEach(({ sequence, begin, end }, i) => {
    const promptLength = sequence.request.prompt.length
    for (let p = begin; rope && p < end; p++) rope.angles.write(p, promptLength, cos, sin, starts[i] + p - begin)
  })
  return { stack, spans, starts, rows, cos, sin, failed: new Map() }
}

/** Values [T,width] of a batch's rows. */
export type Rows = readonly [values: Float32Array | Uint8Array, width: number]

/**
 * Fails the sequences whose `checked` rows are not finite, and zeroes those and their `other` rows: a NaN must reach neither a
 * worker nor the choice of experts.
 */
export const checkFinite = (batch: Batch, layer: number, checked: readonly Rows[], other: readonly Rows[]): void => {
  for (const [i, { sequence }] of batch.spans.entries()) {
    const part = ([values, width]: Rows) => values.subarray(batch.starts[i] * width, batch.starts[i + 1] * width)
    const ok = isolate(batch, sequence, () => {
      if (checked.map(part).every((values) => !(values instanceof Float32Array) || allFinite(values))) return
      throw new MeshError(Code.INTERNAL, `layer ${layer} gave values that are not finite for this request`)
    })
    if (!ok) for (const rows of [...checked, ...other]) part(rows).fill(0)
  }
}

/** Of every array [T,width], the rows of one span. */
export const spanRows = ({ starts, rows }: Batch, span: number, arrays: readonly Float32Array[]): Float32Array[] =>
  arrays.map((values) => {
    const width = values.length / rows
    return values.subarray(starts[span] * width, starts[span + 1] * width)
  })
