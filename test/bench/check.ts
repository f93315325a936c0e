/** `npm run bench -- check`: whether anything has become slower than the figures that are committed, by more than noise. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { packageRoot } from '../../shared/root.ts'
import { compare, type Ratios, type Verdict } from './compare.ts'
import { describeMachine } from './machine.ts'
import { measurePeer, type PeerFigures } from './peer.ts'
import { line, showSpread } from './report.ts'
import { addRuns, writeFigures } from './runs.ts'
import { say } from './say.ts'

const path = join(packageRoot, 'test', 'bench', 'figures.json')

const HELP = `
Runs what \`peer\` runs and holds its ratios, never its rates, against those of the same kind of processor in
test/bench/figures.json: a ratio may be less than committed by as much as the rounds of both runs lay from their medians. The exit
status is 1 where one is less than that.

  npm run bench -- check                      measure and compare
  npm run bench -- check --from peer.json     compare what \`peer --json peer.json\` measured
  npm run bench -- check --write              commit to what is measured from now on
`

export const checkCommand = (): Command =>
  addRuns(
    new Command('check').description('Fails where a ratio is worse than the committed one beyond the noise of both.'),
  )
    .option('--from <file>', 'take the figures from what peer has written instead of measuring')
    .option('--write', 'write the committed figures anew', false)
    .addHelpText('after', HELP)
    .action(check)

type Options = { layers: number; rounds: number; from?: string; write: boolean }
/** One kind of processor's: what of it the kernels can use decides many a ratio. */
type Committed = { processor: string; cores: number; model: string; rounds: number; ratios: Ratios }

const check = async ({ layers, rounds, from, write }: Options): Promise<void> => {
  const all: Committed[] = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : []
  const figures = from ? (JSON.parse(readFileSync(from, 'utf8')) as PeerFigures) : null
  const { processor, cores } = figures?.details.machine ?? describeMachine()
  const committed = all.find((each) => each.processor === processor && each.cores === cores)
  if (!write && !committed) {
    say(`${unknown(processor, cores, all)}: run check --write first`)
    process.exitCode = 1
    return
  }
  const { model, ratios, rounds: told } = (figures ?? (await measurePeer(layers, rounds)).figures).details
  if (write || !committed) {
    const others = all.filter((each) => each !== committed)
    writeFigures(path, [...others, { processor, cores, model, rounds: told.length, ratios } satisfies Committed])
    return
  }
  const verdicts = compare(committed.ratios, ratios)
  console.log(`\nmedian [min, max]; committed from ${processor}, ${cores} cores, rounds: ${committed.rounds}`)
  console.log(line('', ['committed', 'now', 'at least']))
  for (const verdict of verdicts) console.log(describe(verdict))
  const failed = verdicts.filter(({ ok }) => !ok)
  if (failed.length === 0) return
  say(`worse than committed, beyond the noise: ${failed.map(({ name }) => name).join(', ')}`)
  process.exitCode = 1
}

const unknown = (processor: string, cores: number, all: readonly Committed[]): string => {
  const known = all.map((each) => `${each.processor} with ${each.cores} cores`).join(', ') || 'none'
  return `no ratios of ${processor} with ${cores} cores are committed, and those of another tell nothing here (there are: ${known})`
}

const describe = ({ name, committed, now, least, ok }: Verdict): string =>
  line(name, [
    showSpread(committed, 2),
    now ? showSpread(now, 2) : 'not measured',
    `${least.toFixed(2)}${ok ? '' : '  worse'}`,
  ])
