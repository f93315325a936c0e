/** `npm run bench -- peer`: expertmesh against llama.cpp, on the same weights, the same cores and the same prompts. */
import { existsSync, readFileSync } from 'node:fs'
import { Command } from 'commander'
import { startCluster } from '../support/cluster.ts'
import { type Contestant, type ContestLoad, contestLoads, type Round, rate, ratio, runRound } from './contest.ts'
import { type Flash, installLlama, type LlamaFlags, openLlama, tryFlash } from './llama.ts'
import { openGateway } from './load.ts'
import { describeMachine } from './machine.ts'
import { type Prepared, prepare16b, prepareGguf, touchedBytes } from './models.ts'
import { type Spread, spread } from './numbers.ts'
import { column, line, showSpread } from './report.ts'
import { addRuns, writeFigures } from './runs.ts'
import { checkSame } from './same.ts'

const HELP = `
Who takes part, in turn in every round
  2 workers        a gateway and 2 workers, int8, as \`expertmesh up\` starts them
  llama.cpp Q8_0   node-llama-cpp's prebuilt library on the same weights, as many threads as cores
  in the gateway   expertmesh int8 with the experts in the gateway: what distribution costs
  int4, Q4_0       decode alone

Before the first round small models of both are compared token by token, and llama.cpp is tried with flash attention and
without it: the better of the two is used for each load. The GGUF files hold what llama-quantize --pure would make.
The checkpoint and both GGUF files are written once, about 10 GB for 5 layers; node-llama-cpp is installed into
test/bench/peer when it is first needed (85 MB).

A round takes about three minutes. Compare by the ratios; rates differ by machine and from minute to minute.
`

export const peerCommand = (): Command =>
  addRuns(new Command('peer').description('Runs expertmesh and llama.cpp on the same weights in turn.'))
    .option('--json <file>', 'write the ratios and every figure to this file too')
    .option('--add', 'keep the rounds that the file has, and add to them', false)
    .addHelpText('after', HELP)
    .action(peer)

const ours = '2 workers'
const theirs = 'llama.cpp Q8_0'
const local = 'in the gateway'
const ours4 = '2 workers, int4'
const theirs4 = 'llama.cpp Q4_0'

/** What is written by its name: whose rate over whose, at which load. */
const ratios: Record<string, readonly [a: string, b: string, load: ContestLoad]> = {
  prefill_ratio_q8: [ours, theirs, 'prefill'],
  decode_ratio_q8: [ours, theirs, 'decode'],
  decode_int4_ratio_q4: [ours4, theirs4, 'decode'],
  streams8_ratio_q8: [ours, theirs, 'streams8'],
  streams32_ratio_q8: [ours, theirs, 'streams32'],
  distributed_ratio_prefill: [ours, local, 'prefill'],
  distributed_ratio_decode: [ours, local, 'decode'],
  distributed_ratio_streams8: [ours, local, 'streams8'],
}

type Options = { layers: number; rounds: number; json?: string; add: boolean }

/** What `--json` writes: the medians by name, null where no round measured one, and what they come from. */
export type PeerFigures = Record<string, number | null> & { details: PeerDetails }
type PeerDetails = {
  machine: ReturnType<typeof describeMachine>
  model: string
  /** Of a decoded token. */
  touchedBytes: number
  ratios: Record<string, Spread | null>
  /** Whether llama.cpp was faster with flash attention, by contestant. */
  flash: Record<string, Flash>
  rounds: readonly Round[]
}

const peer = async ({ layers, rounds, json, add }: Options): Promise<void> => {
  const { figures, text } = await measurePeer(layers, rounds, json && add ? readDetails(json) : undefined)
  console.log(text)
  if (json) writeFigures(json, figures)
}

const readDetails = (file: string): PeerDetails | undefined =>
  existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as PeerFigures).details : undefined

/** So many rounds after those that there were. */
export const measurePeer = async (
  layers: number,
  rounds: number,
  earlier?: PeerDetails,
): Promise<{ figures: PeerFigures; text: string }> => {
  await installLlama()
  await checkSame()
  const model = await prepare16b(layers, 'int8')
  const [q8, q4] = [await prepareGguf(model, 'Q8_0'), await prepareGguf(model, 'Q4_0')]
  const flash = earlier?.flash ?? {
    [theirs]: await tryFlash(theirs, q8, model.config.vocabulary),
    [theirs4]: await tryFlash(theirs4, q4, model.config.vocabulary),
  }
  const contestants = [
    mesh(ours, model, 2, contestLoads),
    llama(theirs, q8, flash[theirs], contestLoads),
    mesh(local, model, 0, ['prefill', 'decode', 'streams8']),
    mesh(ours4, await prepare16b(layers, 'int4'), 2, ['decode']),
    llama(theirs4, q4, flash[theirs4], ['decode']),
  ]
  const done = [...(earlier?.rounds ?? [])]
  for (let round = 1; round <= rounds; round++) {
    const seed = done.length + 1
    done.push(await runRound(contestants, model.config.vocabulary, seed, `round ${round} of ${rounds}`))
  }
  const measured = Object.entries(ratios).map(([name, of]) => [name, ratio(done, ...of)] as const)
  const all = { ...Object.fromEntries(measured), bandwidth_share: bandwidthShare(model, done) }
  const details: PeerDetails = {
    machine: describeMachine(),
    model: model.name,
    touchedBytes: touchedBytes(model),
    ratios: all,
    flash,
    rounds: done,
  }
  const medians = Object.fromEntries(Object.entries(all).map(([name, of]) => [name, of?.median ?? null]))
  return { figures: Object.assign(medians, { details }) as PeerFigures, text: describe(details, contestants) }
}

const mesh = (name: string, model: Prepared, workers: number, loads: readonly ContestLoad[]): Contestant => ({
  name,
  loads,
  async start() {
    const flags = ['--cache', model.cacheDir, '--precision', model.precision]
    const cluster = await startCluster({ model: model.dir, workers, args: flags })
    const gateway = openGateway(cluster.grpc)
    const close = async (): Promise<void> => {
      await gateway.close()
      await cluster.stop()
    }
    return { ...gateway, close }
  },
})

const llama = (name: string, path: string, flash: Flash, loads: readonly ContestLoad[]): Contestant => {
  const flags: LlamaFlags = { flash: flash.decode, cache: 'F16' }
  const before = (load: ContestLoad): void => {
    flags.flash = flash[load === 'prefill' ? 'prefill' : 'decode']
  }
  return { name, loads, start: async () => ({ ...(await openLlama(path, flags)), before }) }
}

/** Bytes of weights a decoded token touches ÷ its time, as a part of what the cores read from memory at most. */
const bandwidthShare = (model: Prepared, rounds: readonly Round[]): Spread =>
  spread(rounds.map(({ rates, bandwidth }) => (touchedBytes(model) * (rates[ours]?.decode ?? Number.NaN)) / bandwidth))

const describe = ({ model, rounds, ratios, touchedBytes }: PeerDetails, contestants: readonly Contestant[]): string => {
  const known = (value: Spread | null): string => (value ? showSpread(value, 1) : '–')
  const read = spread(rounds.map(({ bandwidth }) => bandwidth / 1e9))
  return [
    `\n${model}, ${rounds.length} ${rounds.length === 1 ? 'round' : 'rounds'}, tokens/s: median [min, max]`,
    line('', contestLoads),
    ...contestants.map(({ name }) =>
      line(
        name,
        contestLoads.map((load) => known(rate(rounds, name, load))),
      ),
    ),
    '',
    ...Object.entries(ratios).map(([name, of]) => `${column(name)}${of ? showSpread(of, 2) : 'not measured'}`),
    `memory is read at ${showSpread(read, 1)} GB/s; a token needs ${(touchedBytes / 1e6).toFixed(0)} MB of weights`,
  ].join('\n')
}
