import type { ModelConfig } from '../../../shared/model/config.ts'
import { float32, int64, type Session } from '../../../shared/model/session.ts'
import type { Batch } from './batch.ts'

export type EmbedSessions = {
  embed: Session
  /** Positions and norm of the embeddings, of each stack; null where there are none. */
  place: { encoder: Session | null; decoder: Session | null }
}

/** ids of the batch → h [T,H]. */
export const embed = async (config: ModelConfig, sessions: EmbedSessions, batch: Batch): Promise<Float32Array> => {
  const ids = batch.spans.flatMap(({ sequence, beam, begin, end }) =>
    idsOf(batch, sequence.request.source, beam.ids).slice(begin, end),
  )
  const { h } = await sessions.embed.run({ ids: int64(ids) })
  const place = batch.stack === 'encoder' ? sessions.place.encoder : sessions.place.decoder
  if (!place) return h.data as Float32Array
  const position = positionsOf(config, batch)
  const placed = await place.run({ h, ...(position && { position }) })
  return placed['h.out'].data as Float32Array
}

const idsOf = (batch: Batch, source: readonly number[], ids: readonly number[]): readonly number[] =>
  batch.stack === 'encoder' ? source : ids

const positionsOf = ({ positions: p, hidden }: ModelConfig, { spans }: Batch) => {
  if (p.kind !== 'sinusoidal' && p.kind !== 'learned') return null
  const at = spans.flatMap(({ begin, end }) => Array.from({ length: end - begin }, (_, row) => begin + row + p.first))
  if (p.kind === 'learned') return int64(at)
  const rows = new Float32Array(at.length * hidden)
  at.forEach((position, row) => {
    sinusoid(position, p.divisor, rows.subarray(row * hidden, (row + 1) * hidden))
  })
  return float32(rows, [at.length, hidden])
}

/** Writes the row [H] of a position: sin of all frequencies, then cos of all (arXiv:1706.03762 §3.5). */
const sinusoid = (position: number, divisor: number, row: Float32Array): void => {
  const half = row.length / 2
  for (let i = 0; i < half; i++) {
    const angle = position * 10_000 ** (-i / divisor)
    row[i] = Math.sin(angle)
    row[half + i] = Math.cos(angle)
  }
}
