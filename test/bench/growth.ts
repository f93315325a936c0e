/** `npm run bench -- growth`: what must not cost more as a model or its use grows, and what may. */
import { Command } from 'commander'
import { startCluster } from '../support/cluster.ts'
import { MANY_STREAMS } from './contest.ts'
import { type Loads, openGateway, openLoads } from './load.ts'
import { describeMachine } from './machine.ts'
import { type Prepared, prepare16b, prepareWide } from './models.ts'
import { median, type Spread, spread } from './numbers.ts'
import { column, showSpread } from './report.ts'
import { addJson, addRuns, writeFigures } from './runs.ts'
import { say } from './say.ts'

const EXPERTS = [16, 64, 256]
const NEAR = 128
const FAR = 4096
const REPEATS = 3

const HELP = `
Sparse cost is constant: decode of models of one sparse layer with 16, 64 and 256 experts of the same size, 6 of which run for
a token, as rates over that with 64. Cost grows as work grows: a step of decode with a context of 4,096 tokens over one with
128, and all tokens per second of 32 streams over those of one. A gateway and 2 workers, int8, fresh processes in turn.
The models with more experts are written once: 7 GB in all, half of it again as shards.
`

export const growthCommand = (): Command =>
  addJson(addRuns(new Command('growth').description('Decode over more experts, longer contexts and more streams.')))
    .addHelpText('after', HELP)
    .action(growth)

export const growth = async (options: { layers: number; rounds: number; json?: string }): Promise<void> => {
  const { figures, text } = await measureGrowth(options.layers, options.rounds)
  console.log(text)
  if (options.json) writeFigures(options.json, { machine: describeMachine(), figures })
}

export type GrowthFigures = Record<string, Spread>

const measureGrowth = async (layers: number, rounds: number): Promise<{ figures: GrowthFigures; text: string }> => {
  const wide: Prepared[] = []
  for (const experts of EXPERTS) wide.push(await prepareWide(experts))
  const model = await prepare16b(layers, 'int8')
  const decodes: number[][] = []
  const depths: Depths[] = []
  for (let round = 1; round <= rounds; round++) {
    const where = `round ${round} of ${rounds}`
    const rates: number[] = []
    for (const each of wide)
      rates.push(await serve(each, round, `${where}, ${each.name}`, (loads) => middle(() => loads.decode())))
    decodes.push(rates)
    depths.push(await serve(model, round, `${where}, ${model.name}`, measureDepths))
  }
  const figures: GrowthFigures = {
    experts_16_over_64: spread(decodes.map(([few, some]) => few / some)),
    experts_256_over_64: spread(decodes.map(([, some, many]) => many / some)),
    step_4096_over_128: spread(depths.map(({ near, far }) => near / far)),
    streams32_over_batch1: spread(depths.map(({ many, one }) => many / one)),
  }
  const rate = (of: (round: number) => number): string => showSpread(spread(decodes.map((_, round) => of(round))), 1)
  const text = [
    `\n2 workers, int8, tokens/s of ${rounds} ${rounds === 1 ? 'round' : 'rounds'}: median [min, max]`,
    ...EXPERTS.map((experts, i) => `${column(`decode, ${experts} experts`)}${rate((round) => decodes[round][i])}`),
    `${column(`decode up to ${NEAR} tokens`)}${rate((round) => depths[round].near)}`,
    `${column(`decode up to ${FAR} tokens`)}${rate((round) => depths[round].far)}`,
    `${column(`${MANY_STREAMS} streams`)}${rate((round) => depths[round].many)}`,
    ...Object.entries(figures).map(([name, of]) => `${column(name)}${showSpread(of, 2)}`),
  ].join('\n')
  return { figures, text }
}

type Depths = { one: number; near: number; far: number; many: number }

const measureDepths = async (loads: Loads): Promise<Depths> => ({
  one: await middle(() => loads.decode()),
  near: await middle(() => loads.decode(NEAR)),
  far: await loads.decode(FAR),
  many: await loads.streams(MANY_STREAMS),
})

const middle = async (load: () => Promise<number>): Promise<number> => {
  const values: number[] = []
  for (let i = 0; i < REPEATS; i++) values.push(await load())
  return median(values)
}

const serve = async <T>(
  { dir, cacheDir, precision, config }: Prepared,
  seed: number,
  where: string,
  measure: (loads: Loads) => Promise<T>,
): Promise<T> => {
  say(where)
  const cluster = await startCluster({ model: dir, args: ['--cache', cacheDir, '--precision', precision] })
  const gateway = openGateway(cluster.grpc)
  try {
    const loads = openLoads(gateway, config.vocabulary, seed)
    await loads.prefill()
    await loads.decode()
    return await measure(loads)
  } finally {
    await gateway.close()
    await cluster.stop()
  }
}
