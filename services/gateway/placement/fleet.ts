import type { Logger } from 'pino'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { ModelConfig } from '../../../shared/model/config.ts'
import type { Model } from '../../../shared/model/open.ts'
import { partGraph } from '../../../shared/model/part.ts'
import type { GatewayConfig } from '../config.ts'
import { openAdmission } from './admit.ts'
import type { State } from './health.ts'
import { LiveFleet, slotsOf } from './live.ts'
import { type Expert, type ExpertSpace, type Topology, tooSmall } from './locate.ts'
import type { Member } from './member.ts'
import type { Rebalance } from './rebalance.ts'
import { namedWorkers, type Source } from './roster.ts'
import { checkRules } from './rules.ts'
import { controlWorker, type Holdings, reachWorker } from './workers.ts'

/** The workers of one gateway as they come and go, and the experts they hold. */
export type Fleet = {
  /** What live workers hold as of now; null without workers: the experts live in the gateway. */
  readonly topology: Topology | null
  /** Hands on the present topology and every later one; what it returns settles when nothing more is sent to where an earlier one led. */
  onTopology(take: (topology: Topology) => void | Promise<void>): void
  /** Experts no live worker holds. */
  readonly missing: () => readonly Expert[]
  members(): readonly Member[]
  /** Experts on their way into workers. */
  loads(): number
  /** The engine thinks otherwise of a worker: a lost one is asked at once, what an ejected one holds is loaded elsewhere too, a liar is left out. */
  judge(address: string, state: State): void
  /** Levels the load; null without workers. */
  readonly rebalance: Rebalance | null
  /** Leaves everything as it is, because the gateway is about to end. */
  rest(): void
  /** Lets all workers go. */
  close(): Promise<void>
}

/** The routed experts of a model. */
export const spaceOf = ({ layers, moe }: ModelConfig): ExpertSpace => ({
  layers: [...layers.keys()].filter((layer) => layers[layer].ffn === 'sparse'),
  experts: moe.experts,
})

type Facts = { hash: string; ownClass: string; log: Logger }

const localFleet: Fleet = {
  topology: null,
  onTopology: () => {},
  missing: () => [],
  members: () => [],
  loads: () => 0,
  judge: () => {},
  rebalance: null,
  rest: () => {},
  close: async () => {},
}

/**
 * Reaches the workers and has the experts loaded. With named workers alone it resolves when all are there and every expert is
 * held; where other sources name workers, at once, and whoever comes is used.
 * @throws MeshError what a named worker refused with, naming it; UNAVAILABLE when one is not there in time.
 */
export const openFleet = async (
  options: GatewayConfig,
  { config }: Model,
  { hash, ownClass, log }: Facts,
  sources: readonly Source[],
): Promise<Fleet> => {
  const { workers, token, precision, startTimeoutMs: limitMs } = options
  if (workers.length + sources.length === 0) return localFleet
  const admit = openAdmission({ numericClass: ownClass, model: hash, precision })
  const space = spaceOf(config)
  checkRules(options.placementRules, space)
  const expertBytes = partGraph(config, { kind: 'expert', layer: 0, expert: 0 }, precision).shardBytes
  if (sources.length === 0) {
    const found = await reachAll(workers, { token, limitMs, model: hash })
    admit(workers.map((address, i) => ({ address, holdings: found[i] })))
    checkRoom(
      space,
      expertBytes,
      found.map((holdings) => slotsOf(holdings, { model: hash, expertBytes, urgent: true })),
    )
  }
  const fleet = new LiveFleet({ ...options, space, expertBytes, model: hash, log, admit }, [
    namedWorkers(workers),
    ...sources,
  ])
  try {
    if (sources.length === 0) await inTime(fleet, limitMs)
    return fleet
  } catch (error) {
    fleet.rest()
    await fleet.close()
    throw error
  }
}

const reachAll = (
  addresses: readonly string[],
  { token, limitMs, model }: { token: string | null; limitMs: number; model: string },
): Promise<Holdings[]> =>
  Promise.all(
    addresses.map(async (address) => {
      const worker = controlWorker({ address, token, model })
      try {
        return await reachWorker(worker, { limitMs })
      } finally {
        worker.close()
      }
    }),
  )

const inTime = async (fleet: LiveFleet, limitMs: number): Promise<void> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const cause = `${fleet.missing().length} experts are held by no worker after ${limitMs} ms`
      reject(new MeshError(Code.UNAVAILABLE, `${cause}: see the log above, or raise --start-timeout-ms`))
    }, limitMs)
  })
  await Promise.race([fleet.settled, late]).finally(() => clearTimeout(timer))
}

const checkRoom = (space: ExpertSpace, expertBytes: number, slots: readonly number[]): void => {
  const needed = space.layers.length * space.experts
  const room = slots.reduce((sum, count) => sum + count, 0)
  if (room < needed) throw tooSmall(needed, room, expertBytes)
}
