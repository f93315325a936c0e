/** A plan as a page of text for a terminal of 100 columns. */
import type { Home } from './locate.ts'
import type { Traffic } from './simulate.ts'
import type { Measured } from './split.ts'

export type Plan = {
  model: { name: string; family: string; hidden: number; layers: number; experts: number; topK: number }
  precision: string
  expertBytes: number
  /** Where the routing came from, in words. */
  load: string
  workers: readonly { name: string; memoryBytes: number; speed: number; rows: number; holds: Home }[]
  balanced: Measured
  /** Every expert once, by memory alone: what a gateway does before it has counted load. */
  dealt: Measured
  /** null where EPLB does not apply. */
  eplb: Measured | null
  /** Per token, in steps of `batch` rows. */
  traffic: readonly (Traffic & { batch: number })[]
}

/** More workers than this are shown by kind. */
const LISTED_MAX = 24
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** 1536 → "1.5 KiB". */
export const bytes = (value: number): string => {
  const unit = Math.min(UNITS.length - 1, value < 1 ? 0 : Math.floor(Math.log2(value) / 10))
  return `${(value / 2 ** (10 * unit)).toFixed(unit === 0 ? 0 : 1)} ${UNITS[unit]}`
}

const percent = (share: number): string => `${(100 * share).toFixed(share < 0.01 ? 3 : 1)} %`
const whole = (value: number): string => Math.round(value).toLocaleString('en')
const columns = (first: string, ...rest: readonly string[]): string =>
  first.padEnd(26) + rest.map((text) => text.padStart(14)).join('')

export const render = (plan: Plan): string => {
  const { model, expertBytes, precision, workers } = plan
  const experts = model.layers * model.experts
  const copies = workers.reduce((sum, { holds }) => sum + countOf(holds), 0)
  const memory = workers.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0)
  return [
    `${model.name} (${model.family}): ${model.layers} layers with ${model.experts} experts each, ${model.topK} run for each token`,
    `experts  ${whole(experts)} of ${bytes(expertBytes)} (${precision}), ${bytes(experts * expertBytes)} in all`,
    `workers  ${whole(workers.length)} with ${bytes(memory)}, holding ${whole(copies)} copies`,
    `routing  ${plan.load}`,
    '',
    ...table(plan),
    '',
    columns('imbalance', 'busiest', 'step time'),
    ...measures(plan),
    'busiest: the busiest worker’s load per speed ÷ the mean. step time: each layer waits for its slowest',
    'worker; 1 is every layer level on as many workers as can be at work in it.',
    '',
    columns('per token', 'messages', 'bytes out', 'bytes in'),
    ...plan.traffic.map(({ batch, messages, bytesOut, bytesIn }) =>
      columns(
        batch === 1 ? 'alone in its step' : `in steps of ${whole(batch)} rows`,
        messages.toFixed(messages < 10 ? 2 : 1),
        bytes(bytesOut),
        bytes(bytesIn),
      ),
    ),
  ].join('\n')
}

const countOf = (home: Home): number => home.reduce((sum, { experts }) => sum + experts.length, 0)

/** One line per worker, or per kind where they are many. */
const table = ({ workers, expertBytes }: Plan): string[] => {
  const rows = workers.reduce((sum, worker) => sum + worker.rows, 0)
  const speeds = workers.reduce((sum, worker) => sum + worker.speed, 0)
  const kinds = new Map<string, Plan['workers'][number][]>()
  for (const worker of workers) {
    const kind = [kindOf(worker.name), worker.memoryBytes, worker.speed].join()
    const key = workers.length <= LISTED_MAX ? worker.name : kind
    kinds.set(key, [...(kinds.get(key) ?? []), worker])
  }
  const lines = [...kinds.values()].map((kind) => {
    const [{ name, memoryBytes, speed }] = kind
    const counts = kind.map(({ holds }) => countOf(holds))
    const fair = kind.map((worker) => worker.rows / rows / (speed / speeds))
    return columns(
      `${kind.length === 1 ? name : `${whole(kind.length)} × ${kindOf(name)}`}, ${bytes(memoryBytes)}`,
      String(speed),
      range(counts, whole),
      bytes(Math.max(...counts) * expertBytes),
      percent(kind.reduce((sum, worker) => sum + worker.rows, 0) / rows),
      range(fair, (share) => `${(100 * share).toFixed(0)} %`),
    )
  })
  return [columns('', 'speed', 'experts', 'bytes, most', 'share of load', 'of fair share'), ...lines]
}

const kindOf = (name: string): string => name.replace(/-\d+$/, '')

/** "3" where all are alike, else "3–5"; a unit is said once. */
const range = (values: readonly number[], show: (value: number) => string): string => {
  const [least, most] = [Math.min(...values), Math.max(...values)].map(show)
  if (least === most) return most
  const [number, unit] = least.split(' ')
  return `${most.endsWith(` ${unit}`) ? number : least}–${most}`
}

const measures = ({ balanced, dealt, eplb }: Plan): string[] => {
  const line = (name: string, { imbalance, stepImbalance, stepTime }: Measured): string => {
    const factor = stepTime / balanced.stepTime
    const note = name === 'this placement' ? '' : `   ${factor.toFixed(2)} × the time of a step here`
    return columns(name, imbalance.toFixed(2), stepImbalance.toFixed(2)) + note
  }
  return [line('this placement', balanced), line('dealt by memory alone', dealt), ...(eplb ? [line('EPLB', eplb)] : [])]
}
