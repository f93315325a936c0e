import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expertGraph } from './graph/ffn.ts'
import { type KernelOptions, openKernels, runExpert } from './kernels.ts'
import { config, wave, writeShard } from './probe.ts'

/** The expert whose speed is measured: large enough that its kernels, not their call, are what takes time. */
const RATE_HIDDEN = 1024
const RATE_WIDTH = 512
const RATE_ROWS = 16
/** A CPU quota or a busy machine may hold up most of them: among so many there is one that ran through. */
const RATE_RUNS = 100
/** A slow device is not waited for longer. */
const RATE_LIMIT_MS = 1_000

/**
 * Token rows per second through one fixed expert while nothing holds the thread up: for comparing machines, not for planning. The
 * fastest run is neither one that a CPU quota stopped nor one that waited for its turn.
 */
export const expertRate = async (options: KernelOptions): Promise<number> => {
  const folder = await mkdtemp(join(tmpdir(), 'expertmesh-rate-'))
  const precision = options.device === 'cpu' ? 'int8' : 'fp32'
  const reference = { ...config, hidden: RATE_HIDDEN, moe: { ...config.moe, width: RATE_WIDTH } }
  try {
    const kernels = await openKernels(options)
    const shard = await writeShard(folder, 'expert', expertGraph(reference, precision))
    const session = await kernels.open({ config: reference, precision, folder, shard })
    const length = RATE_ROWS * RATE_HIDDEN
    const rows = precision === 'int8' ? new Uint8Array(length).fill(200) : wave(length, 5)
    const rowScale = precision === 'int8' ? new Float32Array(RATE_ROWS).fill(1) : null
    const run = (): Promise<unknown> => runExpert(kernels, session, { rows, rowScale }, RATE_HIDDEN)
    // The first prepares what the others use.
    await run()
    let fastestMs = Number.POSITIVE_INFINITY
    const limit = performance.now() + RATE_LIMIT_MS
    for (let runs = 0; runs < RATE_RUNS && performance.now() < limit; runs += 1) {
      const begun = performance.now()
      await run()
      fastestMs = Math.min(fastestMs, performance.now() - begun)
    }
    await session.close()
    await kernels.close()
    return (RATE_ROWS * 1000) / fastestMs
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
