import type { ExpertFrame } from '../../../shared/model/experts.ts'
import { pickRows } from '../../../shared/model/rows.ts'
import type { Attended } from './attend.ts'
import type { Outcome, Reply, Runner, Runners } from './dispatch.ts'
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

/** Reading an expert's weights takes about as long as so many rows: on to another holder go only rows beyond these. */
const ROWS_TOGETHER = 16

/** Assignments, ascending by expert, as work: rows, and the weights of each expert as the rows that reading them is worth. */
export const workOf = ({ ids }: Routes, assignments: readonly number[]): number =>
  assignments.reduce((work, a, i) => work + 1 + (i === 0 || ids[a] !== ids[assignments[i - 1]] ? ROWS_TOGETHER : 0), 0)

/** What its answer says of a lot's runner. */
export const answered = (lot: Lot, routes: Routes, { busyUs }: Reply): Outcome => {
  const ms = performance.now() - lot.sentMs
  return { kind: 'answered', ms, work: workOf(routes, lot.assignments), busyUs }
}

/** Assignments [begin, end) of a list: all of one expert's, or a part that goes to one holder; copies of it that there are. */
type Run = { begin: number; end: number; expert: number; copies: number }

/** Experts with the fewest holders first, then the largest: what those have to do counts where others have more choice. */
const runsOf = (
  runners: Runners,
  layer: number,
  { ids }: Routes,
  assignments: readonly number[] | Uint32Array,
): readonly Run[] => {
  const whole: Run[] = []
  for (let begin = 0, end = 0; begin < assignments.length; begin = end) {
    const expert = ids[assignments[begin]]
    while (end < assignments.length && ids[assignments[end]] === expert) end++
    whole.push({ begin, end, expert, copies: runners.copies(layer, expert) })
  }
  whole.sort((a, b) => a.copies - b.copies || b.end - b.begin - (a.end - a.begin) || a.begin - b.begin)
  return whole.flatMap(({ begin, end, expert, copies }) => {
    const rows = copies > 1 ? ROWS_TOGETHER : end - begin
    const cuts = Array.from({ length: Math.ceil((end - begin) / rows) }, (_, cut) => begin + cut * rows)
    return cuts.map((from) => ({ begin: from, end: Math.min(end, from + rows), expert, copies }))
  })
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
  const plan = (runner: Runner | null, rows: number): void => {
    if (runner) planned.set(runner, (planned.get(runner) ?? 0) + rows)
  }
  const chosen = new Map<Run, Runner | null>()
  const choose = (run: Run): void => {
    const { begin, end, expert } = run
    plan(chosen.get(run) ?? null, begin - end)
    const runner = runners.pick(layer, expert, { planned, ...options })
    plan(runner, end - begin)
    chosen.set(run, runner)
  }
  const runs = runsOf(runners, layer, routes, assignments)
  for (const run of runs) choose(run)
  // Again, where there is a choice: what the later ones have taken is known now.
  for (const run of runs) if (run.copies > 1) choose(run)
  const places = new Map<Runner | null, number[]>([[null, []]])
  for (const [{ begin, end }, runner] of chosen) {
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
