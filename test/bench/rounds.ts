/** Turns of two clusters, one after the other and each with fresh processes: A B A B, so that both meet the same machine. */
import { startCluster } from '../support/cluster.ts'
import { type Loads, openGateway, openLoads } from './load.ts'
import { type Memory, readMemory } from './memory.ts'
import type { Prepared } from './models.ts'
import { median, type Spread, spread } from './numbers.ts'
import { observe, phaseNames, type Shares } from './phases.ts'
import { say } from './say.ts'

export const loads = ['prefill', 'decode', 'streams'] as const
export type Load = (typeof loads)[number]

/** How often each load runs in a turn, of which the median counts. */
const REPEATS: Record<Load, number> = { prefill: 5, decode: 3, streams: 1 }

type Turn = { rate: Record<Load, number>; shares: Record<Load, Shares>; memory: Memory | null }

/** Tokens per second, over the turns of one cluster. */
export type Measured = {
  workers: number
  rate: Record<Load, Spread>
  /** Of each part, the median of the turns. */
  shares: Record<Load, Shares>
  memory: Memory | null
}

export type Pair = {
  clusters: readonly [Measured, Measured]
  /** Rate of the first cluster over that of the second in the same round. */
  ratio: Record<Load, Spread>
}

const by = <T>(make: (load: Load) => T): Record<Load, T> => ({
  prefill: make('prefill'),
  decode: make('decode'),
  streams: make('streams'),
})

/** Runs the pair that many times. */
export const runPair = async (model: Prepared, workers: readonly [number, number], rounds: number): Promise<Pair> => {
  const turns: [Turn, Turn][] = []
  for (let round = 1; round <= rounds; round++) {
    const turn = (side: 0 | 1): Promise<Turn> =>
      runTurn(model, workers[side], 2 * round + side, `${model.name}, round ${round} of ${rounds}`)
    turns.push([await turn(0), await turn(1)])
  }
  const side = (at: 0 | 1): Measured =>
    measured(
      workers[at],
      turns.map((pair) => pair[at]),
    )
  return {
    clusters: [side(0), side(1)],
    ratio: by((load) => spread(turns.map(([a, b]) => a.rate[load] / b.rate[load]))),
  }
}

const runTurn = async (model: Prepared, workers: number, seed: number, where: string): Promise<Turn> => {
  const who = `${where}, ${clusterName(workers)}`
  say(`${who}: starting`)
  const { dir, cacheDir, precision, config } = model
  const cluster = await startCluster({ model: dir, workers, precision, args: ['--cache', cacheDir] })
  const gateway = openGateway(cluster.grpc)
  const client = openLoads(gateway, config.vocabulary, seed)
  try {
    for (const load of loads) await client[load]()
    const turn = { rate: by(() => 0), shares: {} as Record<Load, Shares> }
    for (const load of loads) {
      say(`${who}: ${load}`)
      const { result, shares } = await observe(cluster.url, () => repeat(client, load))
      turn.rate[load] = result
      turn.shares[load] = shares
    }
    return { ...turn, memory: readMemory(cluster.process.pid ?? 0) }
  } finally {
    await gateway.close()
    await cluster.stop()
  }
}

const repeat = async (client: Loads, load: Load): Promise<number> => {
  const rates: number[] = []
  for (let i = 0; i < REPEATS[load]; i++) rates.push(await client[load]())
  return median(rates)
}

const measured = (workers: number, turns: readonly Turn[]): Measured => ({
  workers,
  rate: by((load) => spread(turns.map(({ rate }) => rate[load]))),
  shares: by((load) => mid(turns.map(({ shares }) => shares[load]))),
  memory: turns[0].memory,
})

const mid = (shares: readonly Shares[]): Shares => {
  const names = [...phaseNames, 'outside'] as const
  return Object.fromEntries(names.map((name) => [name, median(shares.map((s) => s[name]))])) as Shares
}

export const clusterName = (workers: number): string =>
  workers === 0 ? 'experts in the gateway' : `gateway + ${workers} workers`
