import { pickRows } from '../../../shared/model/rows.ts'
import type { Attended } from './attend.ts'
import type { AssignmentRows, DispatchLimits, Runner, Runners } from './dispatch.ts'
import { makeFrame, NOBODY } from './lot.ts'
import type { Routes } from './route.ts'

type Done = {
  runners: Runners
  layer: number
  hidden: number
  attended: Pick<Attended, 'rows' | 'scale'>
  routes: Routes
  limits: DispatchLimits
}

/**
 * Has assignments that are done run again by another holder where that is due: now and then as an audit, and to see whether a
 * runner under suspicion has recovered. Nobody waits for it.
 */
export const examine = (done: Done, rows: AssignmentRows, by: (assignment: number) => Runner): void => {
  const { runners, layer, hidden, attended, routes, limits } = done
  if (rows.sources.length === 0) return
  const assignment = Math.floor(Math.random() * routes.ids.length)
  if (rows.source[assignment] === NOBODY) return
  const first = by(assignment)
  const examiner = runners.examiner(layer, routes.ids[assignment], routes.ids.length, first)
  if (!examiner) return
  const frame = makeFrame(layer, hidden, attended, routes, [assignment])
  const expected = pickRows(rows.sources[rows.source[assignment]], [rows.offset[assignment] / hidden], hidden)
  const { overdueMs } = runners.patience(examiner, 1)
  const abort = new AbortController()
  const timer = setTimeout(() => abort.abort(), Math.min(overdueMs, limits.timeoutMs))
  examiner
    .send(frame, { deadlineMs: limits.timeoutMs, signal: abort.signal })
    .reply.then(
      (reply) => runners.examined(examiner, first, frame, { again: reply, first: expected }),
      () => runners.examined(examiner, first, frame, { again: null, first: expected }),
    )
    .finally(() => clearTimeout(timer))
}
