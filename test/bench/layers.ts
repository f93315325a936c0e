/** `npm run bench -- layers`: where the time of a step goes. */
import { Command, Option } from 'commander'
import { whole } from '../../services/cli/flags.ts'
import { spaceOf } from '../../services/gateway/placement/fleet.ts'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { DECODE_TOKENS, PREFILL_TOKENS, SHORT_PROMPT_TOKENS } from './load.ts'
import { describeMachine } from './machine.ts'
import { prepare16b, prepareDemo } from './models.ts'
import { median, spread } from './numbers.ts'
import { groups, openProfile, type Part, type Profile, type StepSpent } from './profile.ts'
import { showSpread } from './report.ts'
import { addJson, addLayers, writeFigures } from './runs.ts'
import { say } from './say.ts'

const HELP = `
The gateway's engine runs in the bench's own process, over 2 real workers, so that every kernel can be told from the rest:
prefill(512) is one step, decode one step of a single sequence. What the workers do shows as waiting, and only as far as
the gateway has nothing else to do meanwhile. Medians of the rounds; the parts of a column sum to its step, roughly.
`

type Options = { model: 'demo' | '16b'; layers: number; precision: Precision; rounds: number; json?: string }

export const layersCommand = (): Command =>
  addJson(
    addLayers(
      new Command('layers').description("Where a step's time goes: kernels by kind, wire, JavaScript, waiting."),
    ),
  )
    .addOption(new Option('--model <which>', 'what to measure').choices(['demo', '16b']).default('16b'))
    .addOption(new Option('--precision <kind>', 'weights').choices(PRECISIONS).default('int8'))
    .option('--rounds <n>', 'how often each is run', whole(1), 5)
    .addHelpText('after', HELP)
    .action(layers)

const layers = async ({ model: which, layers: count, precision, rounds, json }: Options): Promise<void> => {
  const model = await (which === 'demo' ? prepareDemo(precision) : prepare16b(count, precision))
  say(`${model.name}: starting 2 workers`)
  const profile = await openProfile(model)
  const prefill: StepSpent[] = []
  const decode: StepSpent[] = []
  try {
    await runOnce(profile)
    for (let round = 1; round <= rounds; round++) {
      say(`${model.name}: round ${round} of ${rounds}`)
      const spent = await runOnce(profile)
      prefill.push(spent.prefill)
      decode.push(spent.decode)
    }
  } finally {
    await profile.close()
  }
  console.log(`\n${model.name}, ${precision}, 2 workers, ms of a step: median of ${rounds}, and part of the step`)
  console.log(table(prefill, decode, spaceOf(model.config).layers.length))
  if (json) writeFigures(json, { machine: describeMachine(), model: model.name, precision, prefill, decode })
}

const runOnce = async (profile: Profile): Promise<{ prefill: StepSpent; decode: StepSpent }> => {
  const { first: prefill } = await profile.run(PREFILL_TOKENS, 1)
  const { next: decode } = await profile.run(SHORT_PROMPT_TOKENS, 1 + DECODE_TOKENS)
  if (!decode) throw new Error('the engine made one token where more were asked for')
  return { prefill, decode }
}

const table = (prefill: readonly StepSpent[], decode: readonly StepSpent[], sparse: number): string => {
  const of = (steps: readonly StepSpent[], name: keyof StepSpent): number => median(steps.map((step) => step[name]))
  const cell = (steps: readonly StepSpent[], names: readonly Part[]): string => {
    const ms = names.reduce((sum, name) => sum + of(steps, name), 0)
    return `${ms.toFixed(2).padStart(10)} ${((100 * ms) / of(steps, 'step')).toFixed(0).padStart(4)} %`
  }
  const row = (name: string, names: readonly Part[]): string =>
    `${name.padEnd(26)}${cell(prefill, names)}   ${cell(decode, names)}`
  const lines = Object.entries(groups).flatMap(([group, names]) => [
    row(group, names),
    ...names.map((name) => row(`  ${name}`, [name])),
  ])
  const step = (steps: readonly StepSpent[]): string => showSpread(spread(steps.map((each) => each.step)), 1)
  const rows = (steps: readonly StepSpent[]): string => `${(of(steps, 'bytes') / sparse / 1e6).toFixed(3)} MB`
  return [
    `${''.padEnd(26)}${`prefill(${PREFILL_TOKENS})`.padStart(17)}   ${'decode'.padStart(17)}`,
    ...lines,
    `step, ms [min, max]: prefill ${step(prefill)}, decode ${step(decode)}`,
    `token rows to and from a layer's experts: prefill ${rows(prefill)}, decode ${rows(decode)}`,
  ].join('\n')
}
