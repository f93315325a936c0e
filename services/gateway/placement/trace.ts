/** Routing as load: token rows by [layer][expert], layers counted over the whole model. */
import { invalid } from '../../../shared/errors.ts'
import type { ExpertSpace } from './locate.ts'

/** A whole number below `limit`. */
export type Random = (limit: number) => number

/**
 * Share of the token rows that reach each expert when popularity falls with rank as rank^-s (Zipf), which expert has which rank
 * being drawn anew in each layer. A row reaches `topK` different experts, so that no share is above 1 and they sum to topK.
 */
export const zipf = ({ layers, experts }: ExpertSpace, topK: number, s: number, random: Random): number[][] => {
  const ranked = zipfShares(experts, topK, s)
  const load: number[][] = []
  for (const layer of layers) {
    const order = [...ranked.keys()]
    for (let i = order.length - 1; i > 0; i -= 1) {
      const j = random(i + 1)
      ;[order[i], order[j]] = [order[j], order[i]]
    }
    load[layer] = order.map((rank) => ranked[rank])
  }
  return load
}

const zipfShares = (experts: number, topK: number, s: number): number[] => {
  const weights = Array.from({ length: experts }, (_, rank) => (rank + 1) ** -s)
  // What an expert would have above 1 belongs to the ones after it.
  for (let full = 0; ; full += 1) {
    const scale = (topK - full) / weights.slice(full).reduce((sum, weight) => sum + weight, 0)
    if (full === topK || weights[full] * scale <= 1)
      return weights.map((weight, rank) => (rank < full ? 1 : weight * scale))
  }
}

/** A generator of equal numbers for equal seeds: mulberry32, a 32-bit mixing generator. */
export const seeded = (seed: number): Random => {
  let state = seed | 0
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit)
  }
}

/** Sample of expertmesh_expert_rows_total, as a gateway's /metrics prints it; labels in any order. */
const METRIC = /^expertmesh_expert_rows_total\{(?<labels>[^}]*)\}\s+(?<rows>\S+)/
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g
const CURE = 'a trace is a saved /metrics page, or lines of layer,expert,rows'

/**
 * Reads a recorded trace: a saved /metrics page of a gateway, or lines `layer,expert,rows` (a heading and lines that begin with #
 * are skipped), or JSON lines {"layer": 1, "expert": 2, "rows": 3}. Entries of one expert add up.
 * @throws MeshError INVALID_ARGUMENT naming the line at fault, or when no line counts.
 */
export const readTrace = (text: string, { layers, experts }: ExpertSpace): number[][] => {
  const load: number[][] = []
  const sparse = new Set(layers)
  let counted = 0
  const isMetrics = /^(# HELP|expertmesh_)/m.test(text)
  for (const [i, line] of text.split('\n').entries()) {
    const entry = isMetrics ? readMetric(line) : readLine(line, i)
    if (!entry) continue
    const [layer, expert, rows] = entry
    const fault = `line ${i + 1} of the trace`
    if (![layer, expert, rows].every((value) => Number.isFinite(value) && value >= 0))
      throw invalid(`${fault} is ${JSON.stringify(line.slice(0, 80))}, but ${CURE}`)
    if (!sparse.has(layer) || !Number.isInteger(expert) || expert >= experts)
      throw invalid(
        `${fault} counts (layer ${layer}, expert ${expert}), which the model lacks: record it with this model`,
      )
    load[layer] ??= Array<number>(experts).fill(0)
    load[layer][expert] += rows
    counted += 1
  }
  if (counted === 0) throw invalid(`the trace counts no rows of any expert: ${CURE}`)
  return load
}

type Entry = [layer: number, expert: number, rows: number]

const readMetric = (line: string): Entry | null => {
  const found = METRIC.exec(line)?.groups
  if (!found) return null
  const labels = new Map([...found.labels.matchAll(LABEL)].map(([, name, value]) => [name, value]))
  return [numberOf(labels.get('layer')), numberOf(labels.get('expert')), Number(found.rows)]
}

const readLine = (line: string, index: number): Entry | null => {
  const text = line.trim()
  if (text === '' || text.startsWith('#')) return null
  if (text.startsWith('{')) return readObject(text)
  const values = text.split(',')
  if (index === 0 && values.every((value) => Number.isNaN(numberOf(value)))) return null
  return values.length === 3
    ? [numberOf(values[0]), numberOf(values[1]), numberOf(values[2])]
    : [Number.NaN, Number.NaN, Number.NaN]
}

const readObject = (text: string): Entry => {
  try {
    const { layer, expert, rows } = JSON.parse(text)
    return [layer, expert, rows].map((value) => (typeof value === 'number' ? value : Number.NaN)) as Entry
  } catch {
    return [Number.NaN, Number.NaN, Number.NaN]
  }
}

/** Number('') is 0, and no number was there. */
const numberOf = (text = ''): number => (text.trim() === '' ? Number.NaN : Number(text))
