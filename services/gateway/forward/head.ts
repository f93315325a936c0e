import { float32, type Session } from '../../../shared/model/session.ts'

/** Rows of h [T,H] by index → logits [n,V]. Only rows whose next token is wanted pay for the head. */
export const head = async (
  session: Session,
  h: Float32Array,
  hidden: number,
  rows: readonly number[],
): Promise<Float32Array> => {
  if (rows.length === 0) return new Float32Array(0)
  const picked = new Float32Array(rows.length * hidden)
  rows.forEach((row, i) => {
    picked.set(h.subarray(row * hidden, (row + 1) * hidden), i * hidden)
  })
  const { logits } = await session.run({ h: float32(picked, [rows.length, hidden]) })
  return logits.data as Float32Array
}
