import { writeFileSync } from 'node:fs'
import { availableParallelism, cpus, totalmem } from 'node:os'
import { Command, InvalidArgumentError, Option } from 'commander'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { measureDispatch } from './dispatch.ts'
import { type Prepared, prepare16b, prepareDemo } from './models.ts'
import { describeDispatch, describePair } from './report.ts'
import { runPair } from './rounds.ts'
import { say } from './say.ts'

/** Two workers against none: what distribution costs or wins on the same cores. */
const WORKERS = [2, 0] as const

type Options = { model: 'demo' | '16b' | 'all'; layers: number; rounds: number; precision: Precision; json?: string }

const HELP = `
What it prints
  prefill(512)     tokens/s of one prompt of 512 tokens until its first token, as a gRPC client sees it
  decode(64)       tokens/s of the 64 tokens after the first of one sequence
  8 streams        tokens/s of 8 sequences of 64 tokens together, from the first request to the last token
  outside kernels  share of the steps in which neither a kernel of the gateway ran nor an expert's it waited for
  a step's parts   attend, dispatch (until the frames are sent), shared, wait (for the experts), combine, and the rest
  dispatch         one layer's token rows to 2 real workers over unix sockets and back, 1 row and 512

Both clusters run in turn, A B A B, each turn with fresh processes. Compare by the ratios, not by the rates: machines
differ, and one machine from minute to minute. Progress is told on stderr, the result on stdout.

The random model (hidden 2048, 64 experts of 1408, top 6, 2 shared, bf16) is written once to EXPERTMESH_CACHE or
~/.cache/expertmesh, below bench: about 1.1 GB per layer as a checkpoint, and half of it again as int8 shards, a third as int4.

Examples
  npm run bench                                       both models, 3 rounds: some ten minutes
  npm run bench -- --model demo --rounds 1            a minute, to see that it works
  npm run bench -- --model 16b --layers 3 --json out.json
`

const whole =
  (least: number) =>
  (text: string): number => {
    const value = /^\d+$/.test(text) ? Number(text) : 0
    if (value >= least) return value
    throw new InvalidArgumentError(`It must be a whole number of at least ${least}.`)
  }

const command = new Command('npm run bench --')
  .description('Measures a gateway with 2 workers against one that holds the experts itself, and dispatch.')
  .addOption(new Option('--model <which>', 'what to measure').choices(['demo', '16b', 'all']).default('all'))
  .option('--layers <n>', 'layers of the random 16B-shaped model; the first is dense', whole(2), 5)
  .option('--rounds <n>', 'turns of each cluster', whole(1), 3)
  .addOption(new Option('--precision <kind>', 'weights').choices(PRECISIONS).default('int8'))
  .option('--json <file>', 'write every figure to this file too')
  .allowExcessArguments(false)
  .addHelpText('after', HELP)

const measure = async (model: Prepared, rounds: number) => {
  const { name, precision, gatewayShardBytes, expertShardBytes } = model
  const pair = await runPair(model, WORKERS, rounds)
  const dispatch = await measureDispatch(model)
  console.log(`\n${describePair(model, pair, rounds)}`)
  for (const figures of dispatch) console.log(describeDispatch(figures))
  return { name, precision, rounds, gatewayShardBytes, expertShardBytes, ...pair, dispatch }
}

const { model, layers, rounds, precision, json } = command.parse().opts<Options>()
// The processes of a cluster are ended when this one exits.
for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)
  process.once(signal, () => process.exit(status))
const machine = {
  processor: cpus()[0].model.trim(),
  cores: availableParallelism(),
  memoryBytes: totalmem(),
  node: process.version,
}
console.log(`${machine.processor}, ${machine.cores} cores, Node ${machine.node}`)
const models: Awaited<ReturnType<typeof measure>>[] = []
if (model !== '16b') models.push(await measure(await prepareDemo(precision), rounds))
if (model !== 'demo') models.push(await measure(await prepare16b(layers, precision), rounds))
if (json) {
  writeFileSync(json, `${JSON.stringify({ machine, models }, null, 2)}\n`)
  say(`written to ${json}`)
}
