import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import { type Latency, measureDispatch } from './dispatch.ts'
import { type Figures, startBench } from './measure.ts'
import { benchFolder, demoModel, largeModel } from './models.ts'

const units: Record<keyof Figures, string> = {
  prefill: 'prefill(512), tokens/s',
  decode: 'decode, 1 stream, tokens/s',
  streams8: 'decode, 8 streams, tokens/s',
  outsidePrefill: 'outside kernels, prefill, %',
  outsideDecode: 'outside kernels, decode, %',
}
const figureNames = Object.keys(units) as (keyof Figures)[]

type Options = {
  model: 'demo' | '16b' | 'all'
  layers: string
  rounds: string
  precision: 'fp32' | 'int8'
  json?: string
}

const options = new Command('bench')
  .description(
    'Measures a gateway with 2 workers (A) against one that holds the experts itself (B), in turn A B A B on this machine, and the round trip of a dispatch. Prints median [min, max] and the ratio A/B of each round. Quote ratios: machines are noisy.',
  )
  .addOption(new Option('--model <which>', 'which model').choices(['demo', '16b', 'all']).default('all'))
  .option('--layers <n>', 'layers of the random DeepSeekMoE-16B-shaped model', '5')
  .option('--rounds <n>', 'paired rounds', '3')
  .addOption(new Option('--precision <kind>', 'weights').choices(['fp32', 'int8']).default('int8'))
  .option('--json <file>', 'write all figures to a file as well')
  .parse()
  .opts<Options>()

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]

/** median [min, max] */
const spread = (values: readonly number[], scale = 1): string => {
  const show = (value: number) => (value * scale).toFixed(value * scale < 10 ? 2 : 1)
  return `${show(median(values))} [${show(Math.min(...values))}, ${show(Math.max(...values))}]`
}

const run = async (title: string, model: string) => {
  const cache = join(benchFolder, 'cache')
  const { precision } = options
  const a = await startBench(`${title}, gateway + 2 workers`, { model, workers: 2, precision, cache })
  const b = await startBench(`${title}, gateway alone`, { model, workers: 0, precision, cache })
  const figures: { a: Figures[]; b: Figures[] } = { a: [], b: [] }
  for (let round = 1; round <= Number(options.rounds); round++) {
    figures.a.push(await a.measure(round))
    figures.b.push(await b.measure(round))
  }
  await Promise.all([a.stop(), b.stop()])
  console.log(`\n${title}, ${precision}                 A: 2 workers            B: no worker             A/B`)
  for (const name of figureNames) {
    const [ofA, ofB] = [figures.a, figures.b].map((all) => all.map((each) => each[name]))
    const scale = units[name].endsWith('%') ? 100 : 1
    const ratio = scale === 1 ? spread(ofA.map((value, i) => value / ofB[i])) : ''
    console.log(`${units[name].padEnd(30)} ${spread(ofA, scale).padEnd(24)} ${spread(ofB, scale).padEnd(24)} ${ratio}`)
  }
  const folder = mkdtempSync(join(tmpdir(), 'expertmesh-bench-'))
  const dispatch = await measureDispatch(model, cache, folder)
  rmSync(folder, { recursive: true })
  for (const latency of dispatch) console.log(describeDispatch(latency))
  return { ...figures, dispatch }
}

const describeDispatch = ({ rows, p50Us, p99Us, computeP50Us }: Latency): string =>
  `dispatch of ${String(rows).padStart(3)} rows and back: p50 ${p50Us.toFixed(0)} µs, p99 ${p99Us.toFixed(0)} µs, of which the expert's kernels ${computeP50Us.toFixed(0)} µs`

console.log(`${cpus()[0].model.trim()}, ${availableParallelism()} cores, Node ${process.version}`)
const results: Record<string, unknown> = {}
if (options.model !== '16b') results.demo = await run('demo model', demoModel)
if (options.model !== 'demo') {
  const layers = Number(options.layers)
  results.large = await run(`DeepSeekMoE-16B shapes, ${layers} layers`, await largeModel(layers))
}
if (options.json) writeFileSync(options.json, JSON.stringify(results, null, 1))
