import type { ExpertFrame, Experts } from '../../../shared/model/experts.ts'
import type { Reply, Runner, Runners } from '../forward/dispatch.ts'

/** The experts of this process as the only runner: the same path as workers', without the wire. */
export const localRunners = (experts: Experts): Runners => {
  const runner: Runner = {
    name: 'gateway',
    send: (frame) => ({ written: Promise.resolve(), reply: timed(experts, frame) }),
  }
  return {
    pick: (layer, expert, { avoid }) => (experts.holds(layer, expert) && !avoid.has(runner) ? runner : null),
    copies: () => 1,
    patience: () => ({ overdueMs: Number.POSITIVE_INFINITY, stalledMs: Number.POSITIVE_INFINITY }),
    mayHedge: () => false,
    sent: () => {},
    settled: () => {},
    changed: () => new Promise(() => {}),
    examiner: () => null,
    examined: () => {},
  }
}

const timed = async (experts: Experts, frame: ExpertFrame): Promise<Reply> => {
  const begun = performance.now()
  const rows = await experts.run(frame)
  const computeUs = Math.round((performance.now() - begun) * 1000)
  // What is not finite was computed here by the very kernels that would compute it again.
  return { ...rows, finite: true, bytes: 0, computeUs, busyUs: computeUs }
}
