import { describe, expect, it } from 'vitest'
import { openExperts, runExpert } from '../../../shared/model/experts.ts'
import type { Session } from '../../../shared/model/session.ts'
import { drawConfig } from '../../support/axes.ts'
import { demo } from '../../support/cluster.ts'
import { normals, openPart, randomModel } from '../../support/model.ts'

const config = drawConfig(0)
const { hidden } = config

describe('an expert on a GPU', () => {
  // The graph runs on the CPU here, where a row's bits depend on nothing else: what is tested is the padding around it.
  it('sees blocks of one size, and gives every row its own result', async () => {
    const session = await openPart(randomModel(config, 1), { kind: 'expert', layer: 1, expert: 0 }, 'fp32')
    const seen: number[] = []
    const watched: Session = {
      ...session,
      run(feeds) {
        seen.push(feeds.rows.dims[0])
        return session.run(feeds)
      },
    }
    for (const count of [1, 2, 63, 64, 65, 130]) {
      const rows = { rows: normals(count * hidden, count), rowScale: null }
      const padded = await runExpert(watched, 'webgpu', rows, hidden)
      expect(padded).toEqual(await runExpert(session, 'cpu', rows, hidden))
    }
    expect(seen).toEqual(Array(1 + 1 + 1 + 1 + 2 + 3).fill(64))
  })

  it.each(['int8', 'int4'] as const)('is refused in %s', async (precision) => {
    const options = { modelDir: demo, cacheDir: '', precision, threads: 1 }
    await expect(openExperts({ ...options, device: 'webgpu' })).rejects.toThrow(/CPU alone.*--precision fp32/)
  })
})
