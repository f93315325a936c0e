import { setImmediate as turn } from 'node:timers/promises'
import type { ModelConfig } from '../../../shared/model/config.ts'
import { float32, type Session, uint8 } from '../../../shared/model/session.ts'
import type { Attended } from './attend.ts'
import { scratch } from './scratch.ts'

/** Multiplications in one kernel run while calls to workers are out: about 10 ms of one core. Longer, and replies and timers wait. */
const WORK_PER_RUN = 5e8
/** And while none are: about 200 ms, so that the engine hears of cancellations. A cut reads all weights: few rows waste memory's bandwidth. */
const IDLE_WORK_PER_RUN = 1e10

/**
 * The shared experts of a layer, or a dense layer's whole FFN: [T,H]; null where a layer has none. Runs in cuts of rows, small ones
 * while calls to workers are `out`. The result may be scratch memory.
 */
export const runShared = async (
  config: ModelConfig,
  session: Session | null,
  layer: number,
  { rows, scale, share }: Attended,
  out: boolean,
): Promise<Float32Array | null> => {
  if (!session) return null
  const { hidden, moe } = config
  const width = config.layers[layer].ffn === 'dense' ? config.denseWidth : moe.sharedWidth
  const T = rows.length / hidden
  const step = Math.max(1, Math.floor((out ? WORK_PER_RUN : IDLE_WORK_PER_RUN) / (3 * hidden * width)))
  const result = scratch.floats(T * hidden)
  for (let begin = 0; begin < T; begin += step) {
    const end = Math.min(T, begin + step)
    const x = rows.subarray(begin * hidden, end * hidden)
    const column = (values: Float32Array) => float32(values.subarray(begin, end), [end - begin, 1])
    const { y } = await session.run({
      rows: x instanceof Float32Array ? float32(x, [end - begin, hidden]) : uint8(x, [end - begin, hidden]),
      ...(scale && { scale: column(scale) }),
      ...(share && { share: column(share) }),
    })
    if (step >= T) return y.data as Float32Array
    result.set(y.data as Float32Array, begin * hidden)
    await turn()
  }
  return result
}
