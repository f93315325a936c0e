/** How fast this machine's cores read memory together: what the speed of weights that are read once per token is held against. */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { coresAllowed } from '../../shared/machine.ts'

/** Far beyond any cache. */
const BYTES = 512 << 20
const PASSES = 8

export type ReadOptions = { bytes: number; passes: number }

/**
 * Bytes per second of all cores, each looking through 512 MiB of its own for a byte that is not there: memchr and memcmp, of which the
 * faster counts, read with the widest registers and do nothing else. The best of eight passes.
 */
export const readBandwidth = async (): Promise<number> => {
  const workerData: ReadOptions = { bytes: BYTES, passes: PASSES }
  const threads = Array.from(
    { length: coresAllowed() },
    () => new Worker(new URL('./reader.js', import.meta.url), { workerData }),
  )
  try {
    await Promise.all(threads.map((thread) => once(thread, 'message')))
    const passes = threads.map(async (thread) => {
      thread.postMessage('begin')
      const [rates] = (await once(thread, 'message')) as [number[]]
      return rates
    })
    const rates = await Promise.all(passes)
    // Passes of the same number ran at the same time.
    return Math.max(...rates[0].map((_, pass) => rates.reduce((sum, own) => sum + own[pass], 0)))
  } finally {
    for (const thread of threads) await thread.terminate()
  }
}
