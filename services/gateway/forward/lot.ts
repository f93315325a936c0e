import type { ExpertFrame } from '../../../shared/model/experts.ts'
import { pickRows } from '../../../shared/model/rows.ts'
import type { Attended } from './attend.ts'
import type { Runner, Runners } from './dispatch.ts'
import { DROPPED, type Routes } from './route.ts'

/** In place of the source of an assignment that has no row. */
export const NOBODY = 2 ** 32 - 1

/** One frame that is out. */
export type Lot = {
  runner: Runner
  assignments: readonly number[]
  abort: AbortController
  sentMs: number
  open: boolean
  hedged: boolean
  /** Its runner is not counted on any more. */
  givenUp: boolean
  timer: NodeJS.Timeout | undefined
  /** Nobody waits any more for its last byte to leave: its runner may have stopped reading. */
  release(): void
}

/** Assignments t·K + k of all routes but dropped ones, ascending by expert, then by row. */
export const byExpert = ({ ids }: Routes): Uint32Array =>
  Uint32Array.from(ids.keys())
    .filter((a) => ids[a] !== DROPPED)
    .sort((a, b) => ids[a] - ids[b] || a - b)

type Spread = { lots: Map<Runner, number[]>; homeless: number[] }

/** Rows of an expert beyond these may go to another holder: fewer are not worth reading its weights twice. */
const ROWS_TOGETHER = 16

/** Assignments [begin, end) of a list: all of one expert's, or a part that goes to one holder. */
type Run = { begin: number; end: number; expert: number }

/** Experts with one holder first: what those have to do then counts where others have a choice, the largest first. */
const runsOf = (
  runners: Runners,
  layer: number,
  { ids }: Routes,
  assignments: readonly number[] | Uint32Array,
): readonly Run[] => {
  const [bound, free]: [Run[], Run[]] = [[], []]
  for (let begin = 0, end = 0; begin < assignments.length; begin = end) {
    const expert = ids[assignments[begin]]
    while (end < assignments.length && ids[assignments[end]] === expert) end++
    const list = runners.copies(layer, expert) > 1 ? free : bound
    list.push({ begin, end, expert })
  }
  free.sort((a, b) => b.end - b.begin - (a.end - a.begin) || a.begin - b.begin)
  for (const { begin, end, expert } of free)
    for (let from = begin; from < end; from += ROWS_TOGETHER)
      bound.push({ begin: from, end: Math.min(end, from + ROWS_TOGETHER), expert })
  return bound
}

/**
 * Chooses runners for the experts of these assignments, which come and stay ascending by expert. homeless: the assignments nobody
 * can take.
 */
export const spread = (
  runners: Runners,
  layer: number,
  routes: Routes,
  assignments: readonly number[] | Uint32Array,
  options: { avoid: ReadonlySet<Runner> },
): Spread => {
  const planned = new Map<Runner, number>()
  const places = new Map<Runner | null, number[]>([[null, []]])
  for (const { begin, end, expert } of runsOf(runners, layer, routes, assignments)) {
    const runner = runners.pick(layer, expert, { planned, ...options })
    if (runner) planned.set(runner, (planned.get(runner) ?? 0) + end - begin)
    const own = places.get(runner) ?? []
    places.set(runner, own)
    for (let place = begin; place < end; place++) own.push(place)
  }
  const lots = new Map<Runner, number[]>()
  const homeless: number[] = []
  for (const [runner, own] of places) {
    const list = own.sort((a, b) => a - b).map((place) => assignments[place])
    if (runner) lots.set(runner, list)
    else homeless.push(...list)
  }
  return { lots, homeless }
}

/** The frame of some assignments: each row once. */
export const makeFrame = (
  layer: number,
  hidden: number,
  { rows, scale }: Pick<Attended, 'rows' | 'scale'>,
  { ids, topK }: Routes,
  assignments: readonly number[],
): ExpertFrame => {
  const place = new Map<number, number>()
  const rowIndex = new Uint32Array(assignments.length)
  for (let i = 0; i < assignments.length; i++) {
    const row = Math.floor(assignments[i] / topK)
    const known = place.get(row) ?? place.size
    place.set(row, known)
    rowIndex[i] = known
  }
  const picked = pickRows({ rows, rowScale: scale }, [...place.keys()], hidden)
  const expert = Uint32Array.from(assignments, (a) => ids[a])
  return { layer, rowCount: place.size, hidden, ...picked, rowIndex, expert }
}
