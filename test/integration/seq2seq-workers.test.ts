import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { connectRemote } from '../../services/gateway/forward/remote.ts'
import { controlWorker } from '../../services/gateway/placement/workers.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { describeGolden, golden, goldenFolders } from '../support/goldens.ts'
import { openLocal, requestOf } from '../support/local.ts'
import { type ServiceProcess, startWorker } from '../support/service.ts'

/** Experts of encoders and decoders in worker processes: the same bits, however many there are. */
const families = ['switch_transformers', 'nllb_moe']
const counts = [1, 3]
const LOAD_LIMIT_MS = 60_000

const cache = mkdtempSync(join(tmpdir(), 'expertmesh-sources-'))
const workers: ServiceProcess[] = []
beforeAll(async () => {
  const models = goldenFolders(families).flatMap((dir) => ['--models', dir])
  if (models.length === 0) return
  const started = Array.from({ length: Math.max(...counts) }, () => startWorker([...models, '--cache', cache]))
  workers.push(...(await Promise.all(started)))
})
afterAll(async () => {
  for (const worker of workers) expect(await worker.stop()).toBe(0)
  rmSync(cache, { recursive: true })
})

/** Worker (layer + expert) mod count runs an expert of that layer. */
const openRemotes = async (dir: string, count: number) => {
  const model = await openModel(dir)
  const { layers, moe, encoder } = model.config
  const hash = await modelHash(model, 'fp32', cache)
  await model.close()
  const sparse = [...layers.keys()].filter((layer) => layers[layer].ffn === 'sparse')
  const remotes = await Promise.all(
    workers.slice(0, count).map(async ({ address }, at) => {
      const control = controlWorker({ address, token: null })
      const own = sparse.map((layer) => ({
        layer,
        experts: [...Array(moe.experts).keys()].filter((expert) => (layer + expert) % count === at),
      }))
      await control.load(hash, own, LOAD_LIMIT_MS)
      control.close()
      return connectRemote({ address, token: null, maxFrameBytes: 1 << 26, model: hash })
    }),
  )
  return { remotes, start: encoder?.start ?? -1 }
}

const generateAll = async (name: string, count: number) => {
  const { dir, cases } = golden(name)
  const { remotes, start } = await openRemotes(dir, count)
  const runner = (layer: number, expert: number) => remotes[(layer + expert) % count]
  const local = await openLocal(dir, count > 0 ? { runner } : {})
  const all = cases.map(({ input_ids, greedy }) =>
    local.generate(requestOf([start], greedy.length, { source: input_ids })),
  )
  const answers = (await Promise.all(all)).map(({ ids, digests }) => ({ ids, digests }))
  await local.close()
  for (const remote of remotes) remote.close()
  return answers
}

for (const name of families) {
  describeGolden(name, () => {
    it(`gives the ids of transformers, and the same bits, with 0, ${counts.join(', ')} workers`, async () => {
      const alone = await generateAll(name, 0)
      expect(alone.map(({ ids }) => ids)).toEqual(golden(name).cases.map(({ greedy }) => greedy))
      for (const count of counts) expect(await generateAll(name, count)).toEqual(alone)
    })
  })
}
