/** `npm run bench -- wire`: what a dispatch costs by the number of its rows and what they are sent as, with experts that cost nothing. */
import { Command } from 'commander'
import type { Precision } from '../../shared/model/config.ts'
import { type DispatchFigures, measureDispatch } from './dispatch.ts'
import { describeMachine } from './machine.ts'
import { prepareEmpty } from './models.ts'
import { addJson, writeFigures } from './runs.ts'

const ROWS = [1, 8, 64, 512]

/** Rows go out as the experts take them and come back as they give them. */
const formats: Record<string, string> = { int8: 'uint8 + scale', fp32: 'fp32' }

const HELP = `
Token rows of hidden width 2048 go to 2 workers over unix sockets, each row to 6 of 64 experts, and are combined again.
The experts are 16 wide: what is left is packing, gRPC, the kernel's sockets and combine.
  out, back   bytes of token rows of one dispatch
  sent        µs until the last byte of every frame has left, p50 and p99
  combined    µs until the replies are combined
  GB/s        bytes both ways over the median of that
`

export const wireCommand = (): Command =>
  addJson(new Command('wire').description('Bytes and time of a dispatch by wire format and rows.'))
    .addHelpText('after', HELP)
    .action(wire)

const wire = async ({ json }: { json?: string }): Promise<void> => {
  const measured: { format: string; figures: DispatchFigures[] }[] = []
  for (const [precision, format] of Object.entries(formats))
    measured.push({ format, figures: await measureDispatch(await prepareEmpty(precision as Precision), ROWS) })
  console.log(`\n2 workers, hidden 2048, top 6, empty experts; µs p50 / p99`)
  console.log(row(['rows', 'out', 'back', 'sent', 'combined', 'GB/s'], 'format'))
  for (const { format, figures } of measured) for (const each of figures) console.log(describe(format, each))
  if (json) writeFigures(json, { machine: describeMachine(), measured })
}

const row = (columns: readonly string[], first: string): string =>
  first.padEnd(26) + columns.map((text) => text.padStart(18)).join('')

const describe = (format: string, { rows, bytes, bytesBack, sent, back }: DispatchFigures): string => {
  const latency = ({ p50, p99 }: DispatchFigures['sent']): string =>
    `${(p50 * 1000).toFixed(0)} / ${(p99 * 1000).toFixed(0)}`
  const count = (value: number): string => value.toLocaleString('en')
  const perSecond = (bytes / back.p50 / 1e6).toFixed(2)
  return row([count(rows), count(bytes - bytesBack), count(bytesBack), latency(sent), latency(back), perSecond], format)
}
