/** `npm run bench`: a gateway with 2 workers against one that holds the experts itself, and dispatch alone. */
import { Command, Option } from 'commander'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { measureDispatch } from './dispatch.ts'
import { describeMachine } from './machine.ts'
import { type Prepared, prepare16b, prepareDemo } from './models.ts'
import { describeDispatch, describePair } from './report.ts'
import { runPair } from './rounds.ts'
import { addJson, addRuns, writeFigures } from './runs.ts'

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
~/.cache/expertmesh, below bench: about 1.1 GB per layer as a checkpoint, and half of it again as int8 shards.

Examples
  npm run bench                                       both models, 3 rounds: some ten minutes
  npm run bench -- --model demo --rounds 1            a minute, to see that it works
  npm run bench -- --model 16b --layers 3 --json out.json
`

/** What runs where no other question is named. */
export const pairCommand = (): Command =>
  addJson(
    addRuns(
      new Command('pair').description(
        'Measures a gateway with 2 workers against one that holds the experts itself, and dispatch (the default).',
      ),
    ),
  )
    .addOption(new Option('--model <which>', 'what to measure').choices(['demo', '16b', 'all']).default('all'))
    .addOption(new Option('--precision <kind>', 'weights').choices(PRECISIONS).default('int8'))
    .addHelpText('after', HELP)
    .action(pair)

const pair = async ({ model, layers, rounds, precision, json }: Options): Promise<void> => {
  const models: Awaited<ReturnType<typeof measure>>[] = []
  if (model !== '16b') models.push(await measure(await prepareDemo(precision), rounds))
  if (model !== 'demo') models.push(await measure(await prepare16b(layers, precision), rounds))
  if (json) writeFigures(json, { machine: describeMachine(), models })
}

const measure = async (model: Prepared, rounds: number) => {
  const { name, precision, gatewayShardBytes, expertShardBytes } = model
  const pair = await runPair(model, WORKERS, rounds)
  const dispatch = await measureDispatch(model)
  console.log(`\n${describePair(model, pair, rounds)}`)
  for (const figures of dispatch) console.log(describeDispatch(figures))
  return { name, precision, rounds, gatewayShardBytes, expertShardBytes, ...pair, dispatch }
}
