/** Local search: takes token rows from the highest workers of a layer by copying, or exchanging, their experts. */
import type { Split } from './split.ts'

/** Improvements that bring one worker less than this share of its time are not worth a load. */
const LEAST_GAIN = 0.02
/** Experts of the highest worker, and lowest workers, that are tried before a layer is called as good as it gets. */
const EXPERTS_TRIED = 3
const WORKERS_TRIED = 8

export type Bounds = {
  /** Items that a worker has room for. */
  slots: readonly number[]
  /** Whether a worker may hold an item. */
  allowed(item: number, worker: number): boolean
  /** Whether a worker may give an item up while others hold it. */
  spare(item: number, worker: number): boolean
  /** Copies that an item keeps. */
  copiesMin(item: number): number
  /** Whether loading costs nothing, because the worker holds the item already. */
  present(item: number, worker: number): boolean
  /** Loads, at most. */
  loadsMax: number
}

type Place = readonly [item: number, worker: number]
type Change = { add: readonly Place[]; remove: readonly Place[] }

/** Improves the layers in turn, the least even first, until none can be or the loads are spent. */
export const improve = (split: Split, bounds: Bounds, onLayer: (done: number) => void = () => {}): void => {
  let left = bounds.loadsMax
  let rows = Array.from({ length: split.rowCount }, (_, row) => row)
  while (rows.length > 0 && left > 0) {
    const uneven = new Map(rows.map((row) => [row, split.unevenness([row]) / split.rowsOf(row)]))
    rows.sort((a, b) => uneven.get(b)! - uneven.get(a)! || a - b)
    rows = rows.filter((row) => {
      if (left <= 0) return false
      const loads = relieve(split, bounds, row, left)
      left -= loads ?? 0
      return loads !== null
    })
    onLayer(split.rowCount - rows.length)
  }
}

/** @returns loads of the change that was made; null when none is worth it. */
const relieve = (split: Split, bounds: Bounds, row: number, left: number): number | null => {
  for (const donor of highest(split, row)) {
    for (const change of changes(split, bounds, row, donor)) {
      const loads = change.add.filter(([item, worker]) => !bounds.present(item, worker)).length
      if (loads <= left && attempt(split, change, Math.max(1, loads) * gainMin(split, row))) return loads
    }
  }
  return null
}

const gainMin = (split: Split, row: number): number =>
  (LEAST_GAIN ** 2 * split.rowsOf(row)) / Math.min(split.speeds.length, split.experts)

/** The two highest workers with rows in this layer: the highest may have nothing to give. */
const highest = (split: Split, row: number): number[] => {
  let [first, second] = [-1, -1]
  for (let worker = 0; worker < split.speeds.length; worker += 1) {
    if (split.rowsAt(row, worker) === 0) continue
    if (first < 0 || split.height(row, worker) > split.height(row, first)) [first, second] = [worker, first]
    else if (second < 0 || split.height(row, worker) > split.height(row, second)) second = worker
  }
  return [first, second].filter((worker) => worker >= 0)
}

/** The lowest workers that pass the test, ascending. */
const lowest = (split: Split, row: number, passes: (worker: number) => boolean): number[] => {
  const found: { worker: number; height: number }[] = []
  for (let worker = 0; worker < split.speeds.length; worker += 1) {
    const height = split.height(row, worker)
    const full = found.length === WORKERS_TRIED
    if ((full && height >= found[found.length - 1].height) || !passes(worker)) continue
    if (full) found.pop()
    const at = found.findIndex((other) => other.height > height)
    found.splice(at < 0 ? found.length : at, 0, { worker, height })
  }
  return found.map(({ worker }) => worker)
}

/** Ways to relieve a worker in a layer, the most promising first. */
function* changes(split: Split, bounds: Bounds, row: number, donor: number): Generator<Change> {
  const own = itemsIn(split, row, donor)
    .sort((a, b) => split.share(b, donor) - split.share(a, donor) || a - b)
    .slice(0, EXPERTS_TRIED)
  const roomy = lowest(split, row, (worker) => split.held[worker].size < bounds.slots[worker])
  const low = lowest(split, row, (worker) => worker !== donor)
  const idle = new Map<number, number | null>()
  const leaving = (worker: number): number | null => {
    const known = idle.get(worker)
    if (known !== undefined) return known
    const found = idlest(split, bounds, worker)
    idle.set(worker, found)
    return found
  }
  for (const item of own) {
    const fits = (worker: number): boolean =>
      bounds.allowed(item, worker) && !split.holds(worker, item) && promising(split, row, item, donor, worker)
    const free = roomy.find(fits)
    const full = low.find((worker) => fits(worker) && leaving(worker) !== null)
    const copies: Change[] = []
    if (free !== undefined) copies.push({ add: [[item, free]], remove: [] })
    if (full !== undefined && full !== free)
      copies.push({ add: [[item, full]], remove: [[leaving(full) as number, full]] })
    if (full !== undefined && free !== undefined && split.height(row, full) < split.height(row, free)) copies.reverse()
    yield* copies
  }
  for (const worker of low) {
    const exchange = exchangeOf(split, bounds, row, donor, worker)
    if (exchange) yield exchange
  }
}

const itemsIn = (split: Split, row: number, worker: number): number[] => {
  const items: number[] = []
  for (let item = row * split.experts; item < (row + 1) * split.experts; item += 1)
    if (split.holds(worker, item)) items.push(item)
  return items
}

/** Whether the rows that would go over, taken alone, are worth a load. */
const promising = (split: Split, row: number, item: number, from: number, to: number): boolean => {
  const gap = split.height(row, from) - split.height(row, to)
  if (gap <= 0) return false
  const slopes = split.slope(row, from) + split.slope(row, to)
  const rows = Math.min(split.share(item, from), gap / slopes)
  return 2 * rows * gap - rows ** 2 * slopes >= gainMin(split, row)
}

/** The item that a worker can give up with the fewest rows; null when each is needed where it is. */
const idlest = (split: Split, bounds: Bounds, worker: number): number | null => {
  let found: number | null = null
  let least = Number.POSITIVE_INFINITY
  for (const item of split.held[worker]) {
    if (split.holders[item].length <= bounds.copiesMin(item) || !bounds.spare(item, worker)) continue
    const rows = split.share(item, worker)
    if (rows >= least) continue
    found = item
    least = rows
    if (least === 0) break
  }
  return found
}

/** The pair whose exchange brings two workers closest to level; null when none brings them closer. */
const exchangeOf = (split: Split, bounds: Bounds, row: number, from: number, to: number): Change | null => {
  const gap = split.height(row, from) - split.height(row, to)
  const ideal = gap / (split.slope(row, from) + split.slope(row, to))
  const movable = (item: number, worker: number, other: number): boolean =>
    !split.holds(other, item) && bounds.allowed(item, other) && bounds.spare(item, worker)
  const given = itemsIn(split, row, from).filter((item) => movable(item, from, to))
  const taken = itemsIn(split, row, to).filter((item) => movable(item, to, from))
  let best: { change: Change; miss: number } | null = null
  for (const give of given) {
    for (const take of taken) {
      const rows = split.share(give, from) - split.share(take, to)
      const miss = Math.abs(rows - ideal)
      if (rows <= 0 || miss >= (best?.miss ?? ideal)) continue
      const add = [[give, to] as const, [take, from] as const]
      best = { change: { add, remove: [[give, from] as const, [take, to] as const] }, miss }
    }
  }
  return best?.change ?? null
}

/** Makes a change, and takes it back when it brings less than `gain`. */
const attempt = (split: Split, { add, remove }: Change, gain: number): boolean => {
  const rows = [...new Set([...add, ...remove].map(([item]) => split.rowOf(item)))]
  const before = split.unevenness(rows)
  apply(split, add, remove, rows)
  if (before - split.unevenness(rows) >= gain) return true
  apply(split, remove, add, rows)
  return false
}

const apply = (split: Split, add: readonly Place[], remove: readonly Place[], rows: readonly number[]): void => {
  for (const [item, worker] of add) split.add(item, worker)
  for (const [item, worker] of remove) split.remove(item, worker)
  for (const row of rows) split.levelLayer(row)
}
