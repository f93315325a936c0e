/**
 * Which worker shall hold which expert: DeepSeek's EPLB (copies for hot experts, heaviest first to the lowest worker) for workers
 * of any memory and speed, for experts that are already somewhere, and under rules. Pure and deterministic.
 */
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import { replicate } from './eplb.ts'
import { type Bounds, improve } from './improve.ts'
import { type ExpertSpace, type Home, tooSmall } from './locate.ts'
import { type ItemRound, sequence } from './moves.ts'
import { itemsOf, type Load, type Measured, Split } from './split.ts'

/** Experts with more than this share of a worker's mean rows in a layer get a copy at once where none is held yet. */
const HOT_SHARE = 0.5

/** What rules say of one expert; workers by index. */
export type Wish = { pinned: readonly number[]; forbidden: ReadonlySet<number>; copies: number }

export type Demand = {
  space: ExpertSpace
  expertBytes: number
  /** memoryBytes: for experts of this model, those held included. speed: token rows per unit of time, any unit. */
  workers: readonly { memoryBytes: number; speed: number }[]
  /** Token rows by [layer][expert], layers over the whole model; default: every expert alike. */
  load?: Load
  /** What the workers hold; default: nothing. */
  homes?: readonly Home[]
  /** Copies wanted of every expert, where memory allows; default 1. */
  replicasMin?: number
  wishes?: (layer: number, expert: number) => Wish
  /** Loads for the sake of balance, at most; what rules and missing experts need does not count. */
  loadsMax?: number
  /** Share of the time by which the better placement must be faster, or only what is needed is moved. */
  gainMin?: number
  /** Called now and then with the share of the work that is done. */
  onProgress?: (share: number) => void
}

/** One round of moves: first the loads, and when all are done the unloads. One home per worker. */
export type Round = { loads: Home[]; unloads: Home[] }

export type Balanced = {
  /** What each worker shall hold; what it holds after the last round. */
  homes: Home[]
  rounds: Round[]
  expected: Measured
  /** Of the homes given, under the same load; null when they lack an expert. */
  before: Measured | null
}

const NO_WISH: Wish = { pinned: [], forbidden: new Set(), copies: 1 }

/** Everything the steps of one balancing share. */
type Task = Omit<Bounds, 'loadsMax' | 'present'> & {
  split: Split
  demand: Demand
  wishes: readonly Wish[]
  name(item: number): string
}

/**
 * Keeps what the workers hold as far as it may stay, adds what is missing, then improves as long as that is worth its loads.
 * @throws MeshError RESOURCE_EXHAUSTED when the experts do not fit, or not where rules want them; INVALID_ARGUMENT when rules contradict each other.
 */
export const balance = (demand: Demand): Balanced => {
  const task = open(demand)
  const { split } = task
  const from = split.speeds.map((_, worker) => new Set(itemsOf(demand.space, demand.homes?.[worker] ?? [])))
  const covered = new Set(from.flatMap((items) => [...items])).size === split.load.length
  const before = covered ? measureItems(demand, from) : null
  keep(task, from)
  settle(task)
  split.levelAll()
  const needed = arrive(task, from)
  const present = (item: number, worker: number): boolean => from[worker].has(item)
  improve(split, { ...task, present, loadsMax: demand.loadsMax ?? Number.POSITIVE_INFINITY }, (done) =>
    demand.onProgress?.(done / split.rowCount),
  )
  const better = arrive(task, from)
  const gain = 1 - timeOf(better.expected) / timeOf(needed.expected)
  const worthIt = better.complete && gain > 0 && gain >= (demand.gainMin ?? 0)
  const { reached, rounds, expected } = worthIt ? better : needed
  const asHomes = (items: readonly Iterable<number>[]): Home[] => homesOf(demand.space, items)
  return {
    homes: asHomes(reached),
    rounds: rounds.map(({ loads, unloads }: ItemRound) => ({ loads: asHomes(loads), unloads: asHomes(unloads) })),
    expected,
    before,
  }
}

/** The way to what the split has come to, and where it really ends: there may not be room for every exchange. */
const arrive = ({ split, demand, slots }: Task, from: readonly ReadonlySet<number>[]) => {
  const { rounds, reached } = sequence(from, split.held, slots)
  const complete = new Set(reached.flatMap((items) => [...items])).size === split.load.length
  return { rounds, reached, complete, expected: measureItems(demand, reached) }
}

/** Both bounds count: of throughput, and of the time of a step. */
const timeOf = ({ imbalance, stepImbalance }: Measured): number => imbalance + stepImbalance

const slotsOf = ({ workers, expertBytes }: Demand): number[] =>
  workers.map(({ memoryBytes }) => Math.max(0, Math.floor(memoryBytes / expertBytes)))

const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0)

const openSplit = (demand: Demand): Split => {
  const { space, workers, load = [] } = demand
  const copiesPerLayer = total(slotsOf(demand)) / Math.max(1, space.layers.length)
  return new Split({ space, speeds: workers.map(({ speed }) => speed), load, copiesPerLayer })
}

const measureItems = (demand: Demand, held: readonly Iterable<number>[]): Measured => {
  const split = openSplit(demand)
  for (const [worker, items] of held.entries()) for (const item of items) split.add(item, worker)
  split.levelAll()
  return split.measure()
}

const homesOf = ({ layers, experts }: ExpertSpace, held: readonly Iterable<number>[]): Home[] =>
  held.map((items) => {
    const byRow = new Map<number, number[]>()
    for (const item of [...items].sort((a, b) => a - b)) {
      const row = Math.floor(item / experts)
      const list = byRow.get(row) ?? []
      list.push(item % experts)
      byRow.set(row, list)
    }
    return [...byRow].map(([row, held]) => ({ layer: layers[row], experts: held }))
  })

/** @throws MeshError as balance does. */
const open = (demand: Demand): Task => {
  const { space, workers, expertBytes, replicasMin = 1, wishes: wishOf = () => NO_WISH } = demand
  const slots = slotsOf(demand)
  const needed = space.layers.length * space.experts
  if (total(slots) < needed) throw tooSmall(needed, total(slots), expertBytes)
  if (workers.some(({ speed }) => !(speed > 0))) throw invalid('the speed of every worker must be above 0')
  const split = openSplit(demand)
  const layerOf = (item: number): number => space.layers[split.rowOf(item)]
  const wishes = Array.from(split.load, (_, item) => wishOf(layerOf(item), item % space.experts))
  const name = (item: number): string => `(layer ${layerOf(item)}, expert ${item % space.experts})`
  for (const [item, { pinned, forbidden }] of wishes.entries()) {
    if (pinned.some((worker) => forbidden.has(worker)))
      throw invalid(`rules both pin ${name(item)} to a worker and forbid it there: change one of them`)
    if (forbidden.size === workers.length)
      throw invalid(`rules forbid ${name(item)} on every worker: leave it one at least`)
  }
  return {
    split,
    demand,
    slots,
    wishes,
    name,
    allowed: (item, worker) => !wishes[item].forbidden.has(worker),
    spare: (item, worker) => !wishes[item].pinned.includes(worker),
    copiesMin: (item) => Math.max(replicasMin, wishes[item].copies),
  }
}

/** What is held stays, but for what rules forbid; a worker that holds more than it has room for gives up its coldest. */
const keep = ({ split, slots, wishes, allowed }: Task, from: readonly ReadonlySet<number>[]): void => {
  for (const [worker, items] of from.entries()) {
    const pinned = (item: number): number => Number(wishes[item].pinned.includes(worker))
    const staying = [...items].filter((item) => allowed(item, worker))
    staying.sort((a, b) => pinned(b) - pinned(a) || split.load[b] - split.load[a] || a - b)
    for (const item of staying.slice(0, slots[worker])) split.add(item, worker)
  }
}

/** Pins, then one copy of every expert (more of the hot ones), then the copies that rules and replicasMin want, while there is room. */
const settle = (task: Task): void => {
  const { split, slots, wishes, copiesMin, demand } = task
  for (const [item, { pinned }] of wishes.entries())
    for (const worker of pinned) {
      if (split.holds(worker, item)) continue
      if (split.held[worker].size >= slots[worker]) makeRoom(task, worker, item)
      split.add(item, worker)
    }
  split.levelAll()
  for (const { item, rows } of missing(task)) {
    const first = split.holders[item].length === 0
    const worker = lowestFor(task, item, rows) ?? (first ? exchangeRoom(task, item) : null)
    if (worker !== null) addLevel(split, item, worker)
  }
  const items = [...wishes.keys()].sort((a, b) => split.load[b] - split.load[a] || a - b)
  const most = items.reduce((copies, item) => Math.max(copies, copiesMin(item)), 1)
  for (let copies = 2; copies <= Math.min(most, demand.workers.length); copies += 1) {
    for (const item of items) {
      if (split.holders[item].length >= Math.min(copies, copiesMin(item))) continue
      const worker = lowestFor(task, item, split.load[item] / copies)
      if (worker !== null) addLevel(split, item, worker)
    }
  }
}

const noRoom = (what: string): MeshError =>
  new MeshError(
    Code.RESOURCE_EXHAUSTED,
    `the workers that rules allow have no room for ${what}: add memory, or loosen the rules`,
  )

const addLevel = (split: Split, item: number, worker: number): void => {
  split.add(item, worker)
  split.level(item)
}

/** Copies to deal: of every expert that nobody holds as many as its rows call for. By rank within its layer, so that all layers fill alike. */
const missing = ({ split, slots, wishes }: Task): { item: number; rows: number }[] => {
  const perLayer = Math.floor(total(slots) / Math.max(1, split.rowCount))
  const found: { item: number; rows: number; rank: number; bound: number }[] = []
  for (let row = 0; row < split.rowCount; row += 1) {
    const begin = row * split.experts
    const load = split.load.subarray(begin, begin + split.experts)
    const mean = split.rowsOf(row) / Math.min(split.speeds.length, perLayer)
    const { copies } = replicate(load, perLayer, HOT_SHARE * mean)
    const layer = copies.flatMap((count, expert) => {
      if (split.holders[begin + expert].length > 0) return []
      const one = { item: begin + expert, rows: load[expert] / count, bound: wishes[begin + expert].forbidden.size }
      return Array.from({ length: Math.min(count, split.speeds.length) }, () => one)
    })
    layer.sort((a, b) => b.rows - a.rows || a.item - b.item)
    found.push(...layer.map((one, rank) => ({ ...one, rank })))
  }
  // Experts that few workers may hold come first, while those have room.
  return found.sort((a, b) => b.bound - a.bound || a.rank - b.rank || a.item - b.item)
}

/** The worker that would stand lowest with these rows of the item, of those that may and can hold it. */
const lowestFor = ({ split, slots, allowed }: Task, item: number, rows: number): number | null => {
  const row = split.rowOf(item)
  let best: number | null = null
  let least = Number.POSITIVE_INFINITY
  for (let worker = 0; worker < slots.length; worker += 1) {
    const height = split.height(row, worker) + rows * split.slope(row, worker)
    if (height >= least || split.held[worker].size >= slots[worker]) continue
    if (split.holds(worker, item) || !allowed(item, worker)) continue
    best = worker
    least = height
  }
  return best
}

/** Has a full worker give up something for an item: a spare copy, else one that moves elsewhere. */
const makeRoom = (task: Task, worker: number, item: number): void => {
  const { split, spare, name } = task
  const held = [...split.held[worker]].filter((other) => spare(other, worker))
  held.sort((a, b) => split.holders[b].length - split.holders[a].length || split.load[a] - split.load[b] || a - b)
  if (held.length === 0) throw noRoom(`${name(item)} on the worker that it is pinned to`)
  split.remove(held[0], worker)
}

/** Room on a full worker that may hold the item, won by moving something of it to one that may not. */
const exchangeRoom = (task: Task, item: number): number => {
  const { split, slots, allowed, spare, name } = task
  for (let worker = 0; worker < slots.length; worker += 1) {
    if (!allowed(item, worker)) continue
    for (const other of split.held[worker]) {
      if (!spare(other, worker)) continue
      const copies = split.holders[other].length
      const elsewhere = copies > 1 ? worker : lowestFor(task, other, split.load[other])
      if (elsewhere === null) continue
      if (elsewhere !== worker) split.add(other, elsewhere)
      split.remove(other, worker)
      return worker
    }
  }
  throw noRoom(name(item))
}
