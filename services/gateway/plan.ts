/** `expertmesh plan`: what a cluster would hold, do and send, from a model's config.json and a description of the workers. */
import { readFileSync, realpathSync } from 'node:fs'
import { Command, InvalidArgumentError, Option } from 'commander'
import { invalid, MeshError } from '../../shared/errors.ts'
import { onParentLost } from '../../shared/lifeline.ts'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { readModelConfig } from '../../shared/model/open.ts'
import { partGraph } from '../../shared/model/part.ts'
import { balance } from './placement/balance.ts'
import { eplb } from './placement/eplb.ts'
import { spaceOf } from './placement/fleet.ts'
import type { ExpertSpace, Home } from './placement/locate.ts'
import { type Plan, render } from './placement/page.ts'
import { deal } from './placement/repair.ts'
import { checkRules, RULES_HELP, readRules, wishesOf } from './placement/rules.ts'
import { simulate, traffic } from './placement/simulate.ts'
import { readTrace, seeded, zipf } from './placement/trace.ts'

const WORKERS_MAX = 4096
const UNITS: Record<string, number> = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 }
const PROGRESS_INTERVAL_MS = 2_000

export type PlannedWorker = { name: string; memoryBytes: number; speed: number }

const KIND =
  /^(?:(?<name>[A-Za-z][\w-]*)=)?(?:(?<count>\d+)x)?(?<memory>\d+(?:\.\d+)?)(?<unit>[KMGT]iB)(?:@(?<speed>\d+(?:\.\d+)?))?$/

/** `8x24GiB,gpu=2x80GiB@3` → ten workers. */
export const parseWorkers = (text: string): PlannedWorker[] => {
  const workers = text.split(',').flatMap((kind): PlannedWorker[] => {
    const { name = 'worker', count = '1', memory, unit, speed = '1' } = KIND.exec(kind.trim())?.groups ?? {}
    if (memory === undefined || Number(count) < 1 || Number(speed) <= 0)
      throw new InvalidArgumentError(`"${kind}" is no kind of workers: write COUNTxMEMORY@SPEED, such as 2x80GiB@3.`)
    if (Number(count) > WORKERS_MAX) throw new InvalidArgumentError(`At most ${WORKERS_MAX} workers can be planned.`)
    const one = { name, memoryBytes: Number(memory) * UNITS[unit], speed: Number(speed) }
    return Array.from({ length: Number(count) }, () => one)
  })
  if (workers.length > WORKERS_MAX) throw new InvalidArgumentError(`At most ${WORKERS_MAX} workers can be planned.`)
  const seen = new Map<string, number>()
  return workers.map((worker) => {
    const number = seen.get(worker.name) ?? 0
    seen.set(worker.name, number + 1)
    return { ...worker, name: `${worker.name}-${number}` }
  })
}

const bounded =
  (min: number, max: number, whole: boolean) =>
  (text: string): number => {
    const value = text.trim() === '' ? Number.NaN : Number(text)
    if (value >= min && value <= max && (!whole || Number.isInteger(value))) return value
    throw new InvalidArgumentError(`It must be a ${whole ? 'whole ' : ''}number from ${min} to ${max}.`)
  }

const PLAN_HELP = `
Workers: kinds separated by commas, each [NAME=][COUNTx]MEMORY[@SPEED]. MEMORY is what a worker has
for experts (KiB, MiB, GiB, TiB); SPEED is relative, 1 where it is left out. Workers are called
NAME-0, NAME-1, … (worker-0, …), and rules in --placement mean these names.
  expertmesh plan --model DIR --workers 8x24GiB,gpu=2x80GiB@3

Routing decides the load. Without a trace every expert has the same; --zipf S makes the popularity
of experts fall with rank as rank^-S, which expert has which rank being drawn for each layer from
--seed. To record a trace, save a gateway's metrics after real use:
  curl http://GATEWAY/metrics > trace.txt
  expertmesh plan --model DIR --workers 4x24GiB --trace trace.txt
Pages of several gateways may be joined into one file. Also read: lines of layer,expert,rows, and
JSON lines {"layer": 1, "expert": 2, "rows": 3}.`

export type PlanConfig = Readonly<{
  modelDir: string
  workers: readonly PlannedWorker[]
  precision: Precision
  trace?: string
  zipf: number
  seed: number
  replicas: number
  placement?: string
  batch: number
  json: boolean
}>

export const planCommand = (): Command =>
  new Command('expertmesh plan')
    .description(
      'Shows which worker of a cluster would hold what, how even the load would be, and what a token costs on the wire. Needs config.json alone, no weights and no worker.',
    )
    .requiredOption('--model <dir>', 'folder with the config.json of a Hugging Face checkpoint')
    .requiredOption('--workers <kinds>', 'the cluster, such as 8x24GiB,2x80GiB@3 (see below)', parseWorkers)
    .addOption(new Option('--precision <kind>', 'of the experts').choices(PRECISIONS).default('int8'))
    .option('--trace <file>', 'recorded routing (see below)')
    .addOption(
      new Option('--zipf <s>', 'made-up routing with this skew; 0 is none')
        .argParser(bounded(0, 10, false))
        .default(0)
        .conflicts('trace'),
    )
    .option('--seed <n>', 'of the made-up routing', bounded(0, 2 ** 32 - 1, true), 1)
    .option('--replicas <n>', 'copies wanted of every expert', bounded(1, WORKERS_MAX, true), 1)
    .option('--placement <file>', 'JSON file of rules (see below)')
    .option('--batch <rows>', 'token rows of one step', bounded(1, 2 ** 20, true), 64)
    .option('--json', 'print one JSON object, with every worker’s experts', false)
    .addHelpText('after', PLAN_HELP)
    .addHelpText('after', RULES_HELP)

/** @throws MeshError when the model, the trace or the rules cannot be used, or the experts do not fit. */
export const plan = async (options: PlanConfig, onProgress: (share: number) => void = () => {}): Promise<Plan> => {
  const { workers, precision, replicas, batch } = options
  const { name, config } = await readModelConfig(options.modelDir)
  const space = spaceOf(config)
  if (space.layers.length === 0) throw invalid(`${name} has no experts: its gateway needs no workers`)
  const expertBytes = partGraph(config, { kind: 'expert', layer: space.layers[0], expert: 0 }, precision).shardBytes
  const load = loadOf(options, space, config.moe.topK)
  const rules = options.placement ? readRules(options.placement) : []
  checkRules(rules, space)
  const names = workers.map((worker) => worker.name)
  const { homes, expected } = balance({
    space,
    expertBytes,
    workers,
    load,
    replicasMin: replicas,
    wishes: wishesOf(rules, names),
    onProgress,
  })
  const speeds = workers.map(({ speed }) => speed)
  const dealt = deal(
    space,
    workers.map(({ memoryBytes }) => Math.floor(memoryBytes / expertBytes)),
  )
  const published = eplbHomes(space, expertBytes, workers, load)
  const wire = { topK: config.moe.topK, hidden: config.hidden, precision }
  return {
    model: { name, family: config.family, hidden: config.hidden, layers: space.layers.length, ...config.moe },
    precision,
    expertBytes,
    load: describeLoad(options, load),
    workers: workers.map((worker, i) => ({ ...worker, rows: expected.rows[i], holds: homes[i] })),
    balanced: expected,
    dealt: simulate({ space, speeds, homes: dealt, load }),
    eplb: published && simulate({ space, speeds, homes: published, load }),
    traffic: [...new Set([1, batch])].map((rows) => ({
      batch: rows,
      ...traffic({ space, speeds, homes, load }, wire, rows),
    })),
  }
}

const loadOf = ({ trace, zipf: s, seed }: PlanConfig, space: ExpertSpace, topK: number): number[][] => {
  if (trace === undefined) return zipf(space, topK, s, seeded(seed))
  let text: string
  try {
    text = readFileSync(trace, 'utf8')
  } catch (cause) {
    throw invalid(`--trace ${trace} cannot be read (${MeshError.from(cause).message}): name a readable file`)
  }
  return readTrace(text, space)
}

const describeLoad = ({ trace, zipf: s, seed }: PlanConfig, load: readonly number[][]): string => {
  const rows = load.flat().reduce((sum, own) => sum + own, 0)
  if (trace !== undefined) return `${trace}, ${Math.round(rows).toLocaleString('en')} rows through experts`
  return s === 0 ? 'every expert alike (--trace or --zipf says otherwise)' : `made up, Zipf s = ${s}, seed ${seed}`
}

/** Where EPLB would put the experts; null where the workers are unequal or too small for it. */
const eplbHomes = (
  { layers, experts }: ExpertSpace,
  expertBytes: number,
  workers: readonly PlannedWorker[],
  load: readonly number[][],
): Home[] | null => {
  const [{ memoryBytes, speed }] = workers
  if (workers.some((worker) => worker.memoryBytes !== memoryBytes || worker.speed !== speed)) return null
  const perWorker = Math.min(experts, Math.floor(memoryBytes / expertBytes / layers.length))
  if (perWorker * workers.length < experts) return null
  const rows = layers.map((layer) => load[layer] ?? Array<number>(experts).fill(1))
  const { slots } = eplb(rows, { slots: perWorker * workers.length, gpus: workers.length })
  return workers.map((_, worker) =>
    layers.map((layer, row) => ({
      layer,
      experts: [...new Set(slots[row].slice(worker * perWorker, (worker + 1) * perWorker))],
    })),
  )
}

/** Runs as a process: the plan on stdout, progress and errors on stderr. */
const main = async (): Promise<void> => {
  onParentLost(() => process.exit(1))
  const begun = performance.now()
  let toldAt = begun
  try {
    const { model, ...options } = planCommand().parse(process.argv).opts()
    const planned = await plan({ ...options, modelDir: model } as PlanConfig, (share) => {
      if (performance.now() - toldAt < PROGRESS_INTERVAL_MS) return
      toldAt = performance.now()
      process.stderr.write(`planning: ${Math.round(100 * share)} % of the layers are level\n`)
    })
    const took = `planned in ${((performance.now() - begun) / 1000).toFixed(1)} s`
    process.stdout.write(`${options.json ? JSON.stringify(planned) : `${render(planned)}\n\n${took}`}\n`)
  } catch (error) {
    process.stderr.write(`expertmesh: ${MeshError.from(error).message}\n`)
    process.exitCode = 1
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === import.meta.filename) await main()
