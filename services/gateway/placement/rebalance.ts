import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Logger } from 'pino'
import { MeshError } from '../../../shared/errors.ts'
import { built } from '../../../shared/root.ts'
import type { EngineReport } from '../port.ts'
import type { Balanced } from './balance.ts'
import type { BalanceTask } from './balancer.ts'
import type { ExpertSpace, Home } from './locate.ts'
import type { Rules } from './rules.ts'

/** What earlier intervals still count at each rebalance: load drifts. */
const DECAY = 0.5
/** Fewer rows through experts say nothing of how they are used. */
const ROWS_MIN = 2_000
/** A placement must be faster by this share to be worth its loads. */
const GAIN_MIN = 0.05
/** Loads of one rebalance: the rest waits for the next. */
const LOADS_MAX = 256
/** A worker that was busy for at least this share of the busiest one's time is known by its work: less may have been odd rows only. */
const KNOWN_SHARE = 0.1

/** A worker as balancing sees it. */
export type Balanceable = {
  address: string
  /** For experts of this model, those held included. */
  memoryBytes: number
  home: Home
  /** Token rows per second of a reference expert, measured at its start. */
  rowsPerSecond: number
}

/** One worker's part of a round, by address. */
export type Moves = { address: string; loads: Home; unloads: Home }[]

export type RebalanceOptions = {
  space: ExpertSpace
  expertBytes: number
  replicas: number
  rules: Rules
  log: Logger
  /** Live workers that stay; null while something is missing or on its way. */
  workers(): Balanceable[] | null
  /** First all loads, and when they are done the unloads. */
  move(round: Moves): Promise<void>
}

/** 1 is level: mean ÷ greatest load of a worker for its speed. `before` and `after` a placement are by the model of balance. */
export type Balancedness = { measured: number; before: number; after: number }

export type Rebalance = {
  count(report: EngineReport): void
  /** Moves experts if that is worth it; at most one run at a time in this process. Never rejects. */
  run(): Promise<void>
  balancedness(): Balancedness
  /** Since the start: turns that are over, and loads that they asked for. */
  totals(): { turns: number; loads: number }
}

/** work: token rows, and the weights read for them, in rows. busyUs: what that takes of a worker that is never idle. */
type Work = { work: number; busyUs: number }
/** rowsPerSecond: measured at its start. */
export type Worked = Work & { rowsPerSecond: number }

/** Learns the load from the engine's reports, and levels it when asked to. */
export const openRebalance = (options: RebalanceOptions): Rebalance => {
  const { space, log } = options
  /** Token rows by [layer][expert]. */
  const load = space.layers.reduce<number[][]>((layers, layer) => {
    layers[layer] = Array<number>(space.experts).fill(0)
    return layers
  }, [])
  let works = new Map<string, Work>()
  let told: Balancedness = { measured: 1, before: 1, after: 1 }
  const totals = { turns: 0, loads: 0 }
  let running: Promise<void> | null = null

  const count = ({ expertRows, workers }: EngineReport): void => {
    for (const layers of Object.values(expertRows))
      for (const [layer, experts] of layers.entries())
        for (const [expert, rows] of experts?.entries() ?? []) if (rows && load[layer]) load[layer][expert] += rows
    for (const { address, work, busyUs } of workers) {
      const own = works.get(address) ?? { work: 0, busyUs: 0 }
      works.set(address, { work: own.work + work, busyUs: own.busyUs + busyUs })
    }
  }

  const forget = (): void => {
    for (const rows of load) if (rows) for (const expert of rows.keys()) rows[expert] *= DECAY
    works = new Map()
  }

  const level = async (): Promise<void> => {
    const rows = load.flat().reduce((sum, own) => sum + own, 0)
    const workers = options.workers()
    const known = rows >= ROWS_MIN
    if (!workers || workers.length < 2 || (!known && options.rules.length === 0)) return
    const worked = workers.map((worker) => ({ ...worker, ...(works.get(worker.address) ?? { work: 0, busyUs: 0 }) }))
    const speeds = speedsOf(worked)
    const task = taskOf(options, workers, speeds, known ? load : [])
    const { rounds, before, expected } = await compute(task)
    const measured = levelness(worked.map(({ work }, i) => work / speeds[i]))
    told = { measured, before: 1 / (before?.imbalance ?? 1), after: 1 / expected.imbalance }
    forget()
    const loads = rounds.flatMap((round) => round.loads.flat()).reduce((sum, { experts }) => sum + experts.length, 0)
    totals.loads += loads
    log.info({ ...told, rounds: rounds.length, loads }, loads > 0 ? 'moving experts' : 'experts stay where they are')
    for (const round of rounds)
      await options.move(
        workers.map(({ address }, i) => ({ address, loads: round.loads[i], unloads: round.unloads[i] })),
      )
  }

  return {
    count,
    run() {
      running ??= level()
        .catch((error) => log.warn(`the load could not be levelled: ${MeshError.from(error).message}`))
        .finally(() => {
          running = null
          totals.turns += 1
        })
      return running
    },
    balancedness: () => told,
    totals: () => ({ ...totals }),
  }
}

/**
 * Rows per second, in any unit: how fast a worker was with the work that it had, whatever rows its experts got. Whoever had hardly any
 * counts by its start's measurement, on the scale of the others, but not for less than it did while the busiest was busy; a start is
 * short, and beside other processes that start it may be wrong by half.
 */
export const speedsOf = (workers: readonly Worked[]): number[] => {
  const busiestUs = Math.max(...workers.map(({ busyUs }) => busyUs))
  const known = workers.filter(({ busyUs }) => busyUs > 0 && busyUs >= KNOWN_SHARE * busiestUs)
  const logScale = known.map(({ work, busyUs, rowsPerSecond }) => Math.log(work / busyUs / rowsPerSecond))
  const scale = Math.exp(logScale.reduce((sum, each) => sum + each, 0) / Math.max(1, known.length))
  return workers.map((worker) => {
    const { work, busyUs, rowsPerSecond } = worker
    if (known.includes(worker)) return work / busyUs
    return Math.max(scale * rowsPerSecond, busiestUs > 0 ? work / busiestUs : 0)
  })
}

/** No load: only what rules and missing copies ask for is done. */
const taskOf = (
  { space, expertBytes, replicas, rules }: RebalanceOptions,
  workers: readonly Balanceable[],
  speeds: readonly number[],
  load: readonly number[][],
): BalanceTask => ({
  space,
  expertBytes,
  workers: workers.map(({ memoryBytes }, i) => ({ memoryBytes, speed: speeds[i] })),
  load,
  homes: workers.map(({ home }) => home),
  replicasMin: replicas,
  loadsMax: load.length > 0 ? LOADS_MAX : 0,
  gainMin: GAIN_MIN,
  rules,
  addresses: workers.map(({ address }) => address),
})

/** Mean ÷ greatest; 1 where there is nothing. */
const levelness = (times: readonly number[]): number => {
  const greatest = Math.max(...times)
  return greatest > 0 ? times.reduce((sum, time) => sum + time, 0) / times.length / greatest : 1
}

const compute = async (task: BalanceTask): Promise<Balanced> => {
  const thread = new Worker(built('services/gateway/placement/balancer.ts'), { workerData: task })
  // Rejects with what the thread threw.
  const [balanced] = (await once(thread, 'message')) as [Balanced]
  return balanced
}
