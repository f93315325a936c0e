import type { Logger } from 'pino'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { ModelConfig } from '../../../shared/model/config.ts'
import type { Model } from '../../../shared/model/open.ts'
import { partGraph } from '../../../shared/model/part.ts'
import type { GatewayConfig } from '../config.ts'
import { type ExpertSpace, type Home, locate, missing, place, type Topology, topologyOf } from './locate.ts'
import { checkClasses, controlWorker, type Holdings, reachWorker, type WorkerControl } from './workers.ts'

/** The workers of one gateway, each with its share of the experts loaded. */
export type Fleet = {
  /** null without workers: the experts live in the gateway. */
  topology: Topology | null
  /** Address of the worker that runs an expert, or "gateway". */
  holder(layer: number, expert: number): string
  /** Experts no live worker holds, as of the last look. */
  missing(): readonly { layer: number; expert: number }[]
  close(): void
}

/** The routed experts of a model. */
export const spaceOf = ({ layers, moe }: ModelConfig): ExpertSpace => ({
  layers: [...layers.keys()].filter((layer) => layers[layer].ffn === 'sparse'),
  experts: moe.experts,
})

const LOOK_INTERVAL_MS = 1_000

type Facts = { hash: string; ownClass: string; log: Logger }

/**
 * Reaches the workers, deals the experts out and has them loaded.
 * @throws MeshError what a worker refused with, naming it; UNAVAILABLE when one is not there in time.
 */
export const gather = async (
  options: GatewayConfig,
  { config }: Model,
  { hash, ownClass, log }: Facts,
): Promise<Fleet> => {
  const { token, startTimeoutMs: limitMs } = options
  if (options.workers.length === 0)
    return { topology: null, holder: () => 'gateway', missing: () => [], close: () => {} }
  const workers = options.workers.map((address) => controlWorker({ address, token }))
  const found = await Promise.all(workers.map((worker) => reachWorker(worker, { limitMs })))
  checkClasses(
    ownClass,
    found.map(({ device, numericClass }, i) => ({ address: workers[i].address, device, numericClass })),
  )

  for (const [i, { device }] of found.entries()) {
    if (device === 'cpu' || options.precision === 'fp32') continue
    const cause = `worker ${options.workers[i]} runs on ${device}, and ${options.precision} runs on CPUs alone`
    throw new MeshError(Code.FAILED_PRECONDITION, `${cause}: use --precision fp32, or workers with --device cpu`)
  }

  const space = spaceOf(config)
  const expertBytes = partGraph(config, { kind: 'expert', layer: 0, expert: 0 }, options.precision).shardBytes
  const room = found.map(({ memoryLimitBytes, heldBytes, models }) => {
    const ours = (models.get(hash) ?? []).reduce((sum, { experts }) => sum + experts.length, 0)
    return { memoryBytes: memoryLimitBytes - heldBytes + ours * expertBytes }
  })
  const homes = place({ ...space, expertBytes }, room)
  await Promise.all(
    workers.map(async (worker, i) => {
      const { loaded } = await worker.load(hash, homes[i], limitMs)
      log.info({ worker: worker.address, loaded }, 'experts loaded')
    }),
  )
  const watch = watchCoverage(workers, space, homes, hash)
  const topology = topologyOf(1, options.workers, homes)
  return {
    topology,
    holder: (layer, expert) => options.workers[locate(topology, layer, expert)[0]],
    missing: watch.missing,
    close() {
      watch.stop()
      for (const worker of workers) worker.close()
    },
  }
}

/** Asks every worker once a second what it holds: a dead one must show in /readyz before a request finds out. */
const watchCoverage = (
  workers: readonly WorkerControl[],
  space: ExpertSpace,
  placed: readonly Home[],
  hash: string,
) => {
  const homes = [...placed]
  const held = ({ models }: Holdings): Home => models.get(hash) ?? []
  const look = (worker: WorkerControl, i: number): Promise<void> =>
    worker.holdings().then(
      (holdings) => {
        homes[i] = held(holdings)
      },
      () => {
        homes[i] = []
      },
    )
  const timer = setInterval(() => workers.forEach(look), LOOK_INTERVAL_MS)
  return { missing: () => missing(space, homes), stop: () => clearInterval(timer) }
}
