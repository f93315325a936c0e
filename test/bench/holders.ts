/** Real workers without a gateway: the bench itself is at the other end of their streams. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { coresEach } from '../../services/cli/flags.ts'
import { connectRemote } from '../../services/gateway/forward/remote.ts'
import { topologyOf } from '../../services/gateway/placement/locate.ts'
import { WorkerRunners } from '../../services/gateway/placement/runners.ts'
import { controlWorker } from '../../services/gateway/placement/workers.ts'
import { coresAllowed } from '../../shared/machine.ts'
import type { LayerExperts } from '../../shared/model/part.ts'
import { type ServiceProcess, startWorker } from '../support/service.ts'
import type { Prepared } from './models.ts'
import { say } from './say.ts'

const LOAD_LIMIT_MS = 120_000
export const FRAME_BYTES_MAX = 64 << 20

export type Holders = { runners: WorkerRunners; close(): Promise<void> }

/** So many worker processes over unix sockets, set up as `up` does; each holds every `workers`-th expert of the layers. */
export const startHolders = async (model: Prepared, workers: number, layers: readonly number[]): Promise<Holders> => {
  const directory = await mkdtemp(join(tmpdir(), 'expertmesh-bench-'))
  const started: ServiceProcess[] = []
  const runners = new WorkerRunners({
    connect: (address) => connectRemote({ address, token: null, maxFrameBytes: FRAME_BYTES_MAX, model: model.hash }),
    onState: (address, state) => say(`worker ${address} is ${state}`),
    referee: () => Promise.reject(new Error('nothing is audited: every expert has one holder')),
  })
  const close = async (): Promise<void> => {
    runners.close()
    for (const worker of started) await worker.stop()
    await rm(directory, { recursive: true, force: true })
  }
  try {
    const all = [...Array(model.config.moe.experts).keys()]
    const homes = Array.from({ length: workers }, (_, i) =>
      layers.map((layer): LayerExperts => ({ layer, experts: all.filter((expert) => expert % workers === i) })),
    )
    for (const [i, home] of homes.entries())
      started.push(await startHolder(model, `unix:${directory}/${i}`, workers, home))
    void runners.setTopology(
      topologyOf(
        1,
        started.map(({ address }) => address),
        homes,
      ),
    )
    return { runners, close }
  } catch (error) {
    await close()
    throw error
  }
}

const startHolder = async (
  { dir, cacheDir, hash }: Prepared,
  listen: string,
  workers: number,
  home: readonly LayerExperts[],
): Promise<ServiceProcess> => {
  const threads = String(coresEach(coresAllowed(), workers))
  const worker = await startWorker(['--listen', listen, '--models', dir, '--cache', cacheDir, '--threads', threads])
  const control = controlWorker({ address: worker.address, token: null })
  try {
    await control.load(hash, home, LOAD_LIMIT_MS)
    return worker
  } catch (error) {
    await worker.stop()
    throw error
  } finally {
    control.close()
  }
}
