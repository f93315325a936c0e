/** Turns of several servers of one model, A B C A B C, each with fresh processes and the same prompts, and their ratios round by round. */
import { coresAllowed } from '../../shared/machine.ts'
import { readBandwidth } from './bandwidth.ts'
import { type Loads, openLoads, type Server, STREAMS } from './load.ts'
import { median, type Spread, spread } from './numbers.ts'
import { say } from './say.ts'

export const MANY_STREAMS = 32
const MANY_STREAMS_TOKENS = 32

export const contestLoads = ['prefill', 'decode', 'streams8', 'streams32'] as const
export type ContestLoad = (typeof contestLoads)[number]

/** How often a load runs in a turn, of which the median counts. */
const REPEATS: Record<ContestLoad, number> = { prefill: 3, decode: 3, streams8: 1, streams32: 1 }

const run: Record<ContestLoad, (loads: Loads) => Promise<number>> = {
  prefill: (loads) => loads.prefill(),
  decode: (loads) => loads.decode(),
  streams8: (loads) => loads.streams(STREAMS),
  streams32: (loads) => loads.streams(MANY_STREAMS, MANY_STREAMS_TOKENS),
}

export type Contestant = {
  name: string
  loads: readonly ContestLoad[]
  /** Serves from fresh processes. Told before each load which one comes. */
  start(): Promise<Server & { before?(load: ContestLoad): void }>
}

type Rates = Partial<Record<ContestLoad, number>>
/** Tokens per second by contestant and load, and bytes per second that the machine read meanwhile. */
export type Round = { rates: Record<string, Rates>; bandwidth: number }

export const runRound = async (
  contestants: readonly Contestant[],
  vocabulary: number,
  seed: number,
  where: string,
): Promise<Round> => {
  say(`${where}: reading memory with ${coresAllowed()} threads`)
  const before = await readBandwidth()
  const rates: Round['rates'] = {}
  for (const contestant of contestants)
    rates[contestant.name] = await runTurn(contestant, vocabulary, seed, `${where}, ${contestant.name}`)
  // Both ends of the round: a machine that was slow for a moment is no reason to think well of a rate.
  return { rates, bandwidth: Math.max(before, await readBandwidth()) }
}

const runTurn = async (
  { loads: own, start }: Contestant,
  vocabulary: number,
  seed: number,
  who: string,
): Promise<Rates> => {
  say(`${who}: starting`)
  const server = await start()
  const rates: Rates = {}
  try {
    // Kernels, pages and buffers are met for the first time here; the prompts are others.
    const warm = openLoads(server, vocabulary, seed + 1_000_003)
    await warm.prefill()
    await warm.decode()
    const loads = openLoads(server, vocabulary, seed)
    for (const load of own) {
      server.before?.(load)
      const values: number[] = []
      for (let i = 0; i < REPEATS[load]; i++) values.push(await run[load](loads))
      rates[load] = median(values)
      say(`${who}: ${load} ${median(values).toFixed(1)} tokens/s`)
    }
    return rates
  } finally {
    await server.close()
  }
}

/** The first contestant's rate over the second's at a load, round by round; null where one of them did not take part. */
export const ratio = (rounds: readonly Round[], a: string, b: string, load: ContestLoad): Spread | null => {
  const ratios = rounds.map(({ rates }) => (rates[a]?.[load] ?? Number.NaN) / (rates[b]?.[load] ?? Number.NaN))
  return ratios.length > 0 && ratios.every(Number.isFinite) ? spread(ratios) : null
}

export const rate = (rounds: readonly Round[], name: string, load: ContestLoad): Spread | null => {
  const values = rounds.flatMap(({ rates }) => rates[name]?.[load] ?? [])
  return values.length > 0 ? spread(values) : null
}
