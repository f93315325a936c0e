import { int64, type Session } from '../../../shared/model/session.ts'
import type { Batch } from './batch.ts'

/** ids of the batch → h [T,H]. */
export const embed = async (session: Session, batch: Batch): Promise<Float32Array> => {
  const ids = batch.spans.flatMap(({ sequence, begin, end }) => sequence.ids.slice(begin, end))
  const { h } = await session.run({ ids: int64(ids) })
  return h.data as Float32Array
}
