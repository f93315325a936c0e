import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openExperts } from '../../../shared/model/experts.ts'
import { type OpenGraph, oneByOne, openKernels, runPadded } from '../../../shared/model/kernels.ts'
import { shardName } from '../../../shared/model/part.ts'
import { openSession, type Session } from '../../../shared/model/session.ts'
import { writeShard } from '../../../shared/model/shard.ts'
import { openTiles } from '../../../shared/model/tiles.ts'
import { drawConfig } from '../../support/axes.ts'
import { demo } from '../../support/cluster.ts'
import { normals, randomModel } from '../../support/model.ts'
import { seeded } from '../../support/random.ts'

const config = drawConfig(0)
const { hidden } = config
const EXPERTS = 3

describe('experts on a GPU', () => {
  // The graphs run on the CPU here, where a row's bits depend on nothing else: what is tested is how rows come and go, with results
  // that stay there (WebGPU) and that do not (CUDA).
  it('see tiles of one size, and give every row of a frame its own result', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'expertmesh-tiles-'))
    const sizes: number[] = []
    const open: OpenGraph = async (graph, shard) => {
      const session = await openSession(graph, { ...shard, threads: 1, device: 'cpu' })
      const run: Session['run'] = (feeds) => {
        if (shard.shard !== '') sizes.push((feeds.index ?? feeds.rows).dims[0])
        return session.run(feeds)
      }
      return { ...session, run }
    }
    const cpu = await openKernels({ device: 'cpu', threads: 1 })
    const kinds = [cpu, await openTiles(open), oneByOne(open, runPadded)]
    const sources = Array.from({ length: EXPERTS }, (_, expert) => ({ kind: 'expert', layer: 1, expert }) as const)
    const model = randomModel(config, 1)
    for (const part of sources) await writeShard(model, folder, 'fp32', part)
    const opened = await Promise.all(
      kinds.map((kernels) =>
        Promise.all(sources.map((part) => kernels.open({ config, precision: 'fp32', folder, shard: shardName(part) }))),
      ),
    )
    const next = seeded(1)
    for (const rowCount of [1, 2, 63, 64, 65, 300]) {
      const x = { rows: normals(rowCount * hidden, rowCount), rowScale: null }
      const indexes = Array.from({ length: EXPERTS }, () =>
        Uint32Array.from({ length: 1 + next(3 * rowCount) }, () => next(rowCount)),
      )
      const results = await Promise.all(
        kinds.map(async (kernels, kind) => {
          const rows: Float32Array[] = []
          const groups = indexes.map((index, i) => ({ expert: opened[kind][i], index }))
          await kernels.run(x, hidden, groups, (values, begin) => {
            expect(begin * hidden).toBe(rows.reduce((sum, { length }) => sum + length, 0))
            rows.push(values)
          })
          return rows.flatMap((values) => [...values])
        }),
      )
      expect(results[1]).toEqual(results[0])
      expect(results[2]).toEqual(results[0])
    }
    expect(new Set(sizes)).toEqual(new Set([64]))
    for (const session of opened.flat()) await session.close()
    for (const kernels of kinds) await kernels.close()
    await rm(folder, { recursive: true })
  })

  it.each(['int8', 'int4'] as const)('are refused in %s', async (precision) => {
    const options = { modelDir: demo, cacheDir: '', precision, threads: 1 }
    await expect(openExperts({ ...options, device: 'webgpu' })).rejects.toThrow(/CPU alone.*--precision fp32/)
  })
})
