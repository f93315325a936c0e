import { type Limits, type Plan, type Span, schedule } from '../../services/gateway/batch/schedule.ts'
import type { BeamSettings, GenerationRequest, Sequence } from '../../services/gateway/sequence.ts'

const blockRows = 128
export const blocksFor = (tokens: number): number => Math.ceil(tokens / blockRows)
export const limits: Limits = { chunk: 64, maxSequences: 8, maxBatchTokens: 100 }

export const ascending = (length: number): number[] => Array.from({ length }, (_, i) => i)

/** A sequence, or a search with so many beams of which `live` go on. */
export const sequence = (id: string, tokens: number, cached = 0, source = 0, beams = 1, live = 1): Sequence => ({
  request: {
    id,
    source: ascending(source) as readonly number[],
    search: beams > 1 ? ({ beams } as BeamSettings) : null,
  } as GenerationRequest,
  beams: ascending(live).map((at) => ({ id: `${id}${at}`, ids: ascending(tokens), cached })),
  search: null,
  status: 'waiting',
  arrival: 0,
})
/** A cache that holds what the running sequences need so far. */
const counts = (running: readonly Sequence[], totalBlocks: number) => {
  const held = ({ beams }: Sequence): number => beams.reduce((sum, { cached }) => sum + blocksFor(cached), 0)
  return { freeBlocks: totalBlocks - running.reduce((sum, one) => sum + held(one), 0), held, blocksFor }
}

export const plan = (
  running: Sequence[],
  waiting: Sequence[],
  totalBlocks = 100,
  changed: Partial<Limits> = {},
): Plan => schedule({ waiting, running, limits: { ...limits, ...changed }, cache: counts(running, totalBlocks) })

export const names = (sequences: readonly Sequence[]): string => sequences.map(({ request }) => request.id).join(' ')
export const spans = (rows: readonly Span[]): string =>
  rows.map(({ sequence, begin, end }) => `${sequence.request.id}[${begin},${end})`).join(' ')
