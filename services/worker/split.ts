import type { ExpertFrame } from '../../shared/model/experts.ts'
import { NO_ROWS, pickRows, placeRows, roomLike, type TokenRows } from '../../shared/model/rows.ts'

/** The assignments of a frame whose experts live in one compute thread. */
export type Part = {
  lane: number
  frame: ExpertFrame
  /** Their positions in the whole frame; null: the part is the whole frame. */
  positions: Uint32Array | null
}

/** Cuts a frame by compute thread. Each part brings the rows it needs, once. */
export const split = (frame: ExpertFrame, laneOf: (expert: number) => number): Part[] => {
  const positions = new Map<number, number[]>()
  let last = -1
  let list: number[] = []
  for (const [position, expert] of frame.expert.entries()) {
    if (expert !== last) {
      const lane = laneOf(expert)
      list = positions.get(lane) ?? []
      positions.set(lane, list)
      last = expert
    }
    list.push(position)
  }
  const [first] = positions.keys()
  if (positions.size === 1) return [{ lane: first, frame, positions: null }]
  return [...positions].map(([lane, own]) => partOf(frame, lane, Uint32Array.from(own)))
}

const partOf = (frame: ExpertFrame, lane: number, positions: Uint32Array): Part => {
  const place = new Map<number, number>()
  const rowIndex = positions.map((position) => {
    const row = frame.rowIndex[position]
    const at = place.get(row) ?? place.size
    place.set(row, at)
    return at
  })
  const picked = pickRows(frame, [...place.keys()], frame.hidden)
  const expert = positions.map((position) => frame.expert[position])
  return { lane, positions, frame: { ...frame, ...picked, rowCount: place.size, rowIndex, expert } }
}

/** Puts the parts' answers [a,H] back in the order of the whole frame: [A,H]. */
export const merge = (
  parts: readonly { positions: Uint32Array; rows: TokenRows }[],
  assignments: number,
  hidden: number,
): TokenRows => {
  const whole = roomLike(parts[0]?.rows ?? NO_ROWS, assignments, hidden)
  for (const { positions, rows } of parts) placeRows(rows, whole, hidden, (i) => positions[i])
  return whole
}
