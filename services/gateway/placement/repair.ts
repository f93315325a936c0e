/** Which worker must load or drop what so that every expert has its live replicas: a pure decision over plain data. */
import { type Expert, type ExpertSpace, type Home, homeOf } from './locate.ts'

/** One worker as the decision sees it. */
export type Standing = {
  /** Experts of this model that it holds or is loading now. */
  holds: Home
  /** Experts of this model that it has memory for, those it holds among them. */
  slots: number
  /** It drains, or stands in for others: it is dealt nothing, and what it holds must be held elsewhere too. */
  leaving: boolean
  /** It is dealt this expert only where nobody else has room for the first replica. */
  forbids?(expert: Expert): boolean
}

/** All lists are by worker, in the order of the standings. */
export type Repair = {
  /** What nobody holds comes first. */
  load: readonly (readonly Expert[])[]
  /** To be dropped before the loads: replicas in excess, where their memory is wanted. */
  unload: readonly (readonly Expert[])[]
  /** Experts that no worker which stays holds or has room for. */
  homeless: readonly Expert[]
}

/**
 * Every expert gets one worker that stays, then further replicas on other workers as far as there is memory. What is held stays
 * where it is.
 *
 * Smooth weighted round robin over all experts, layer by layer, once per replica: each worker gains its slots per turn, the
 * richest is dealt to and pays the sum. Whoever holds the expert already pays as if it had just been dealt to, so that the
 * rest evens the layers out: workers that hold nothing are dealt in proportion to their memory, within each layer too, and no
 * layer waits for one machine. A deal cut short goes on as it would have. A worker with room that falls far behind in a
 * layer of which it holds nothing, because it came when others held everything, is given copies: it too should compute. How
 * much each holds beyond that is the balance's business.
 *
 * One replica each outranks the wanted number: a second replica makes way for an expert without a first.
 */
export const repair = (space: ExpertSpace, workers: readonly Standing[], replicas: number): Repair => {
  const deal = new Deal(workers)
  const homeless: Expert[] = []
  for (let replica = 0; replica < replicas; replica += 1) {
    for (const layer of space.layers) {
      for (let expert = 0; expert < space.experts; expert += 1) {
        if (deal.turn({ layer, expert }, replica)) continue
        const kept = replica === 0 ? 1 : replicas
        const freed = deal.makeWay({ layer, expert }, kept)
        if (!freed && replica === 0) homeless.push({ layer, expert })
      }
    }
  }
  const load = deal.load.map((experts) => {
    const held = new Set(experts.filter((each) => deal.isLeft(each)))
    return [...experts.filter((each) => !held.has(each)), ...held]
  })
  return { load, unload: deal.unload, homeless }
}

/** The homes that empty workers with so many slots are dealt. */
export const deal = (space: ExpertSpace, slots: readonly number[]): Home[] =>
  repair(
    space,
    slots.map((count) => ({ holds: [], slots: count, leaving: false })),
    1,
  ).load.map(homeOf)

/** A worker that is owed this many experts more than it holds has fallen behind: an even deal keeps everyone below one. */
const BEHIND_TURNS = 2
/** `layer * SPAN + expert` numbers an expert. */
const SPAN = 2 ** 20

/** The round robin under way: who holds what so far, has how much room and credit. */
class Deal {
  readonly load: Expert[][]
  readonly unload: Expert[][]
  readonly #workers: readonly Standing[]
  readonly #stays: readonly number[]
  /** Experts by worker. */
  readonly #held: readonly Set<number>[]
  /** Workers that stay, by expert: those that hold it, then those that it is dealt to. */
  readonly #holders = new Map<number, number[]>()
  /** Who paid for an expert's replicas so far. */
  readonly #paid = new Map<number, Set<number>>()
  readonly #left: number[]
  readonly #credit: number[]
  /** What all workers together gain in a turn. */
  readonly #turnCost: number

  constructor(workers: readonly Standing[]) {
    this.#workers = workers
    this.#stays = [...workers.keys()].filter((worker) => !workers[worker].leaving)
    this.#held = workers.map(({ holds }) => idsOf(holds))
    this.#left = workers.map(({ slots }, worker) => slots - this.#held[worker].size)
    this.#credit = workers.map(() => 0)
    this.#turnCost = this.#stays.reduce((sum, worker) => sum + workers[worker].slots, 0)
    this.load = workers.map(() => [])
    this.unload = workers.map(() => [])
    for (const worker of this.#stays) for (const id of this.#held[worker]) this.#holdersOf(id).push(worker)
  }

  /** One of its holders pays for the replica, or the richest worker becomes one and pays; false when nobody has room. */
  turn({ layer, expert }: Expert, replica: number): boolean {
    const id = layer * SPAN + expert
    if (replica === 0) this.#paid.set(id, new Set())
    let holder = -1
    let richest = -1
    let newcomer = -1
    let outlaw = -1
    for (const worker of this.#stays) {
      this.#credit[worker] += this.#workers[worker].slots
      const isRicher = (than: number): boolean => than < 0 || this.#credit[worker] > this.#credit[than]
      if (this.#held[worker].has(id)) {
        if (!this.#paid.get(id)?.has(worker) && isRicher(holder)) holder = worker
      } else if (this.#left[worker] > 0 && this.#forbids(worker, id)) {
        if (replica === 0 && isRicher(outlaw)) outlaw = worker
      } else if (this.#left[worker] > 0) {
        if (isRicher(richest)) richest = worker
        if (isRicher(newcomer) && this.#isNew(worker, layer)) newcomer = worker
      }
    }
    const behind = replica === 0 && newcomer >= 0 && this.#credit[newcomer] > this.#turnCost * BEHIND_TURNS
    const dealt = richest < 0 ? outlaw : richest
    const payer = holder < 0 ? dealt : behind ? newcomer : holder
    if (payer < 0) return false
    if (!this.#held[payer].has(id)) this.#give(payer, { layer, expert })
    this.#pay(payer, id)
    return true
  }

  /** A worker that holds an expert with more than `kept` replicas, the one with the most, drops it for this one. */
  makeWay({ layer, expert }: Expert, kept: number): boolean {
    const id = layer * SPAN + expert
    let most = kept
    let found: { worker: number; id: number } | null = null
    for (const [other, holders] of this.#holders) {
      if (holders.length <= most) continue
      const worker = holders.find(
        (each) => this.#mayDrop(each, other) && !this.#held[each].has(id) && !this.#forbids(each, id),
      )
      if (worker === undefined) continue
      most = holders.length
      found = { worker, id: other }
    }
    if (!found) return false
    const { worker, id: dropped } = found
    this.#held[worker].delete(dropped)
    this.#holders.set(
      dropped,
      this.#holdersOf(dropped).filter((each) => each !== worker),
    )
    this.unload[worker].push({ layer: Math.floor(dropped / SPAN), expert: dropped % SPAN })
    this.#left[worker] += 1
    this.#give(worker, { layer, expert })
    this.#pay(worker, id)
    return true
  }

  /** A worker that is about to go holds it. */
  isLeft({ layer, expert }: Expert): boolean {
    return this.#held.some((ids, worker) => this.#workers[worker].leaving && ids.has(layer * SPAN + expert))
  }

  /** It held nothing of this layer before. */
  #isNew(worker: number, layer: number): boolean {
    return !this.#workers[worker].holds.some((held) => held.layer === layer && held.experts.length > 0)
  }

  #forbids(worker: number, id: number): boolean {
    return this.#workers[worker].forbids?.({ layer: Math.floor(id / SPAN), expert: id % SPAN }) ?? false
  }

  #holdersOf(id: number): number[] {
    const holders = this.#holders.get(id) ?? []
    this.#holders.set(id, holders)
    return holders
  }

  #give(worker: number, { layer, expert }: Expert): void {
    const id = layer * SPAN + expert
    this.#left[worker] -= 1
    this.load[worker].push({ layer, expert })
    this.#held[worker].add(id)
    this.#holdersOf(id).push(worker)
  }

  #pay(worker: number, id: number): void {
    this.#credit[worker] -= this.#turnCost
    this.#paid.get(id)?.add(worker)
  }

  /** It was there before this decision: what is only dealt is not dropped again. */
  #mayDrop(worker: number, id: number): boolean {
    const { holds, slots } = this.#workers[worker]
    const [layer, expert] = [Math.floor(id / SPAN), id % SPAN]
    return slots > 0 && holds.some((held) => held.layer === layer && held.experts.includes(expert))
  }
}

const idsOf = (home: Home): Set<number> =>
  new Set(home.flatMap(({ layer, experts }) => experts.map((expert) => layer * SPAN + expert)))
