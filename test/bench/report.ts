/** What a person reads: medians with the smallest and the largest value beside them, and ratios of each round. */
import type { DispatchFigures } from './dispatch.ts'
import { DECODE_TOKENS, PREFILL_TOKENS, STREAMS } from './load.ts'
import type { Prepared } from './models.ts'
import type { Spread } from './numbers.ts'
import { phaseNames } from './phases.ts'
import { clusterName, type Load, loads, type Measured, type Pair } from './rounds.ts'

const NAME_WIDTH = 30
const COLUMN_WIDTH = 26
const MIB = 2 ** 20

const titles: Record<Load, string> = {
  prefill: `prefill(${PREFILL_TOKENS}), tokens/s`,
  decode: `decode(${DECODE_TOKENS}), tokens/s`,
  streams: `${STREAMS} streams, tokens/s in all`,
}

export const describePair = (model: Prepared, { clusters, ratio }: Pair, rounds: number): string => {
  const lines = [
    `${model.name}, ${model.precision}, ${rounds} ${rounds === 1 ? 'round' : 'rounds'}: median [min, max]`,
    line('', [...clusters.map(({ workers }) => clusterName(workers)), 'ratio']),
    ...loads.map((load) =>
      line(titles[load], [...clusters.map(({ rate }) => showSpread(rate[load])), showSpread(ratio[load], 2)]),
    ),
    ...loads.map((load) =>
      line(
        `outside kernels, ${load}`,
        clusters.map(({ shares }) => percent(shares[load].outside)),
      ),
    ),
    ...clusters.flatMap((cluster) => loads.map((load) => describeShares(cluster, load))),
    line(
      'shards, MiB',
      clusters.map(({ workers }) => shards(model, workers)),
    ),
    line('resident, MiB', clusters.map(resident)),
  ]
  return lines.join('\n')
}

export const column = (name: string): string => name.padEnd(NAME_WIDTH)

export const line = (name: string, columns: readonly string[]): string =>
  [column(name), ...columns.map((column) => column.padEnd(COLUMN_WIDTH))].join('').trimEnd()

const show = (value: number, digits: number): string => value.toFixed(value < 10 ? Math.max(1, digits) : digits)

export const showSpread = ({ median, min, max }: Spread, digits = 0): string =>
  `${show(median, digits)} [${show(min, digits)}, ${show(max, digits)}]`

const percent = (share: number): string => `${(share * 100).toFixed(0)} %`

const describeShares = ({ workers, shares }: Measured, load: Load): string =>
  `${load} step, ${clusterName(workers)}: ${phaseNames.map((name) => `${name} ${percent(shares[load][name])}`).join(', ')}`

type Shards = Pick<Prepared, 'gatewayShardBytes' | 'expertShardBytes'>

const shards = ({ gatewayShardBytes, expertShardBytes }: Shards, workers: number): string =>
  workers === 0 ? mib(gatewayShardBytes + expertShardBytes) : `${mib(gatewayShardBytes)} + ${mib(expertShardBytes)}`

const resident = ({ workers, memory }: Measured): string => {
  if (!memory) return 'not known on this system'
  return workers === 0 ? mib(memory.gatewayBytes) : `${mib(memory.gatewayBytes)} + ${mib(memory.workersBytes)}`
}

const mib = (bytes: number): string => (bytes / MIB).toFixed(0)

export const describeDispatch = ({ rows, repeats, sent, back, wire, bytes }: DispatchFigures): string => {
  const latency = ({ p50, p99 }: { p50: number; p99: number }): string => `${p50.toFixed(2)} / ${p99.toFixed(2)}`
  const what = `dispatch of ${rows} ${rows === 1 ? 'row' : 'rows'} to 2 workers, ms p50 / p99 of ${repeats}`
  const parts = `sent ${latency(sent)}, combined ${latency(back)}, outside the experts' kernels ${latency(wire)}`
  return `${what}: ${parts}; ${(bytes / 1e6).toFixed(bytes < 1e6 ? 3 : 1)} MB both ways`
}
