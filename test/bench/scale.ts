/** `npm run bench -- scale`: how throughput grows with workers, on this machine for real and beyond it by measured costs. */
import { Command, InvalidArgumentError } from 'commander'
import { coresEach } from '../../services/cli/flags.ts'
import { coresAllowed } from '../../shared/machine.ts'
import { startCluster } from '../support/cluster.ts'
import { measureDispatch } from './dispatch.ts'
import { type Costs, forecast } from './forecast.ts'
import { DECODE_TOKENS, openGateway, openLoads, PREFILL_TOKENS, SHORT_PROMPT_TOKENS } from './load.ts'
import { describeMachine } from './machine.ts'
import { type Prepared, prepare16b, prepareEmpty } from './models.ts'
import { median, type Spread, spread } from './numbers.ts'
import { openProfile, type StepSpent } from './profile.ts'
import { line, showSpread } from './report.ts'
import { addJson, addRuns, writeFigures } from './runs.ts'
import { say } from './say.ts'

const REAL = [1, 2, 4]
const TURNS = 3

const HELP = `
Real: gateway and workers share this machine's cores, so more workers bring no more cores, and the rates say what
spreading the experts costs. The forecast for the same machine stands beside it. Simulated: a machine like this for the
gateway and one for each worker, all as fast as here. The forecast takes the gateway's kernels and an expert's time per
row from a profile of 2 workers, a frame's and a byte's from dispatches to empty experts, and draws routes at random.
`

type Options = { layers: number; rounds: number; simulate: number[]; json?: string }

export const scaleCommand = (): Command =>
  addJson(
    addRuns(
      new Command('scale').description('Throughput over 1, 2 and 4 workers here, and over more by measured costs.'),
    ),
  )
    .option('--simulate <list>', 'numbers of workers, each with a machine of its own', counts, [1, 2, 4, 8, 16, 32, 64])
    .addHelpText('after', HELP)
    .action(scale)

const counts = (text: string): number[] => {
  const numbers = text.split(',').map(Number)
  if (numbers.every((n) => Number.isInteger(n) && n > 0)) return numbers
  throw new InvalidArgumentError('It must be whole numbers of workers, such as 8,16,64.')
}

type Rates<T> = { prefill: T; decode: T; streams: T }
const loads = ['prefill', 'decode', 'streams'] as const

const scale = async ({ layers, rounds, simulate, json }: Options): Promise<void> => {
  const model = await prepare16b(layers, 'int8')
  const costs = await measureCosts(model)
  const turns = new Map<number, Rates<number>[]>(REAL.map((workers) => [workers, []]))
  for (let round = 1; round <= rounds; round++)
    for (const workers of REAL) turns.get(workers)?.push(await runTurn(model, workers, round, rounds))
  const cores = coresAllowed()
  const here = REAL.map((workers) => {
    const of = (load: keyof Rates<number>): Spread => spread((turns.get(workers) ?? []).map((turn) => turn[load]))
    const machines = { workers, threads: coresEach(cores, workers), cores }
    const real: Rates<Spread> = { prefill: of('prefill'), decode: of('decode'), streams: of('streams') }
    return { workers, real, forecast: ratesOf(model, costs, machines) }
  })
  const beyond = simulate.map((workers) => ({
    workers,
    forecast: ratesOf(model, costs, { workers, threads: cores, cores: null }),
  }))
  console.log(`\n${model.name}, ${model.precision}, tokens/s: median of ${rounds} [min, max]`)
  console.log(line('real, cores shared', ['prefill(512)', 'decode(64)', '8 streams', 'forecast prefill, decode']))
  for (const { workers, real, forecast } of here)
    console.log(line(named(workers), [...loads.map((load) => showSpread(real[load], 1)), show(forecast)]))
  console.log(line('simulated, cores for each', ['prefill(512)', 'decode(64)']))
  for (const { workers, forecast } of beyond)
    console.log(line(named(workers), [forecast.prefill.toFixed(0), forecast.decode.toFixed(1)]))
  if (json) writeFigures(json, { machine: describeMachine(), costs, here, beyond })
}

const named = (workers: number): string => `${workers} ${workers === 1 ? 'worker' : 'workers'}`
const show = ({ prefill, decode }: { prefill: number; decode: number }): string =>
  `${prefill.toFixed(0)}, ${decode.toFixed(1)}`

const runTurn = async (model: Prepared, workers: number, round: number, rounds: number): Promise<Rates<number>> => {
  say(`round ${round} of ${rounds}: ${named(workers)}`)
  const { dir, cacheDir, precision, config } = model
  const cluster = await startCluster({ model: dir, workers, args: ['--cache', cacheDir, '--precision', precision] })
  const gateway = openGateway(cluster.grpc)
  const rates = { prefill: 0, decode: 0, streams: 0 }
  try {
    const client = openLoads(gateway, config.vocabulary, round)
    await client.prefill()
    await client.decode()
    for (const load of loads) {
      const values: number[] = []
      for (let i = 0; i < (load === 'streams' ? 1 : TURNS); i++) values.push(await client[load]())
      rates[load] = median(values)
    }
    return rates
  } finally {
    await gateway.close()
    await cluster.stop()
  }
}

const measureCosts = async (model: Prepared): Promise<{ prefill: Costs; decode: Costs }> => {
  const [one, many] = await measureDispatch(await prepareEmpty(model.precision), [1, PREFILL_TOKENS])
  const wire = { messageMs: one.back.p50 / 2, byteMs: (many.back.p50 - one.back.p50) / (many.bytes - one.bytes) }
  say(`${model.name}: what the parts of a step cost`)
  const profile = await openProfile(model)
  const prefill: StepSpent[] = []
  const decode: StepSpent[] = []
  try {
    for (let turn = 0; turn <= TURNS; turn++) {
      const { first } = await profile.run(PREFILL_TOKENS, 1)
      const { next } = await profile.run(SHORT_PROMPT_TOKENS, 1 + DECODE_TOKENS)
      // The first turn warms up.
      if (turn > 0) prefill.push(first)
      if (turn > 0 && next) decode.push(next)
    }
  } finally {
    await profile.close()
  }
  return { prefill: costsOf(prefill, PREFILL_TOKENS, wire), decode: costsOf(decode, 1, wire) }
}

const costsOf = (steps: readonly StepSpent[], rows: number, wire: Pick<Costs, 'messageMs' | 'byteMs'>): Costs => {
  const of = (name: keyof StepSpent): number => median(steps.map((step) => step[name]))
  const besideMs = of('shared experts')
  const outside = of('experts compute') + of('wire and workers') + of('dispatch until sent') + of('combine')
  return { rows, gatewayMs: of('step') - outside - besideMs, besideMs, assignmentMs: of('ms per assignment'), ...wire }
}

/** Tokens per second. */
const ratesOf = (
  { config, precision }: Prepared,
  costs: { prefill: Costs; decode: Costs },
  machines: Parameters<typeof forecast>[3],
): { prefill: number; decode: number } => {
  const rate = (of: Costs): number => (of.rows * 1000) / forecast(config, precision, of, machines)
  return { prefill: rate(costs.prefill), decode: rate(costs.decode) }
}
