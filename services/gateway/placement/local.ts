import type { ExpertFrame, Experts } from '../../../shared/model/experts.ts'
import type { Reply, Runner } from '../forward/dispatch.ts'

/** The experts of this process as a runner: the same path as a worker's, without the wire. */
export const localRunner = (experts: Experts): Runner => ({
  name: 'gateway',
  send: (frame) => ({
    written: Promise.resolve(),
    reply: timed(experts, frame),
  }),
})

const timed = async (experts: Experts, frame: ExpertFrame): Promise<Reply> => {
  const begun = performance.now()
  const rows = await experts.run(frame)
  return { rows, bytes: 0, computeUs: Math.round((performance.now() - begun) * 1000) }
}
