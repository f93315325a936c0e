import { convert } from '../../../shared/model/convert.ts'
import { type ExpertFrame, type Experts, openExperts } from '../../../shared/model/experts.ts'
import type { TokenRows } from '../../../shared/model/rows.ts'
import type { EngineSetup } from '../port.ts'

/** Computes single frames in this process, to settle which of two workers is wrong where they are of the gateway's own class. */
export type Referee = { compute(frame: ExpertFrame): Promise<TokenRows>; close(): Promise<void> }

/** Opens experts only when asked, one at a time, and lets them go again: it is hardly ever asked. */
export const openReferee = (setup: Pick<EngineSetup, 'modelDir' | 'cacheDir' | 'precision' | 'threads'>): Referee => {
  let experts: Promise<Experts> | null = null
  return {
    async compute(frame) {
      const { layer } = frame
      const [expert] = frame.expert
      await convert({ ...setup, parts: [{ kind: 'expert', layer, expert }] })
      experts ??= openExperts({ ...setup, device: 'cpu' })
      const opened = await experts
      await opened.load(layer, expert)
      try {
        return await opened.run(frame)
      } finally {
        await opened.unload(layer, expert)
      }
    },
    close: async () => (await experts)?.close(),
  }
}
