/**
 * Who holds which expert, and how the token rows of an expert with several holders divide among them.
 *
 * The gateway sends rows to the holder that would be done with them first (outstanding rows × time per row). Over many steps that
 * is water filling: an expert's rows go to its lowest holders until they stand level, and a holder that stands higher gets none.
 * A worker's height counts its time in the layer (the step waits for the layer's last worker) and its time over all layers
 * (several batches are under way, and a worker serves all of them), each in units of what it would be if all were level.
 */
import type { ExpertSpace, Home } from './locate.ts'

/** Passes of water filling over a layer, at most: each one brings its heights closer to their limit. */
const PASSES_MAX = 8
/** Rows that move in a pass, as a share of the layer's, below which the layer is level. */
const LEVEL_SHARE = 1e-4
/** Of a layer's mean, for experts without a row: they too must be spread, for the day that they are wanted. */
const LEAST_SHARE = 1e-3

export type SplitShape = {
  space: ExpertSpace
  /** Token rows per unit of time. */
  speeds: readonly number[]
  /** Token rows by [layer][expert], layers over the whole model. A layer that is absent or all zero: every expert alike. */
  load: Load
  /** Copies of experts in one layer, all workers together: more than so many cannot be at work in it. */
  copiesPerLayer: number
}
export type Load = readonly (ArrayLike<number> | undefined)[]

export type Measured = {
  /** Token rows of each worker. */
  rows: number[]
  /** Greatest time of a worker over all layers ÷ the mean (all rows ÷ all speeds); 1 is level. Bounds throughput. */
  imbalance: number
  /**
   * The sum over layers of the layer's slowest worker ÷ what it would be were every layer level on as many workers as it can
   * keep at work; bounds the time of a step.
   */
  stepImbalance: number
  /** Time of a step with the load's rows: the sum over layers of the greatest rows ÷ speed. */
  stepTime: number
}

/** Experts are numbered item = row · experts + expert, where row counts the sparse layers. */
export class Split {
  readonly experts: number
  /** Token rows of each item. */
  readonly load: Float64Array
  /** Workers that hold an item, ascending by when they got it; rows that each of them runs. */
  readonly holders: number[][]
  readonly shares: number[][]
  /** Items of each worker. */
  readonly held: readonly Set<number>[]
  readonly speeds: readonly number[]
  /** Sparse layers. */
  readonly rowCount: number
  readonly #layerRows: Float64Array // [layers, workers]
  readonly #totalRows: Float64Array // [workers]
  readonly #scratch: Float64Array // [workers]
  readonly #perLayer: Float64Array // 1 ÷ time of each layer if it were level
  readonly #perTotal: number // 1 ÷ time of all layers if they were level

  constructor({ space, speeds, load, copiesPerLayer }: SplitShape) {
    const { layers, experts } = space
    this.experts = experts
    this.speeds = speeds
    this.rowCount = layers.length
    this.load = spread(layers, experts, load)
    this.holders = Array.from(this.load, () => [])
    this.shares = Array.from(this.load, () => [])
    this.held = speeds.map(() => new Set<number>())
    this.#layerRows = new Float64Array(layers.length * speeds.length)
    this.#scratch = new Float64Array(speeds.length)
    this.#totalRows = new Float64Array(speeds.length)
    const fastest = [...speeds].sort((a, b) => b - a).slice(0, Math.max(1, Math.floor(copiesPerLayer)))
    this.#perLayer = Float64Array.from(layers, (_, row) => sum(fastest) / this.rowsOf(row))
    this.#perTotal = sum(speeds) / sum(this.load)
  }

  rowOf(item: number): number {
    return Math.floor(item / this.experts)
  }

  /** Token rows of a layer. */
  rowsOf(row: number): number {
    return sum(this.load.subarray(row * this.experts, (row + 1) * this.experts))
  }

  holds(worker: number, item: number): boolean {
    return this.held[worker].has(item)
  }

  /** Rows of one expert on one of its holders. */
  share(item: number, worker: number): number {
    return this.shares[item][this.holders[item].indexOf(worker)]
  }

  /** 1 + 1 where all is level. */
  height(row: number, worker: number): number {
    const own = this.#perLayer[row] * this.#layerRows[row * this.speeds.length + worker]
    return (own + this.#perTotal * this.#totalRows[worker]) / this.speeds[worker]
  }

  /** What one more row adds to a worker's height in a layer. */
  slope(row: number, worker: number): number {
    return (this.#perLayer[row] + this.#perTotal) / this.speeds[worker]
  }

  /** Token rows of a worker in a layer. */
  rowsAt(row: number, worker: number): number {
    return this.#layerRows[row * this.speeds.length + worker]
  }

  /** The new holder has no rows until the item is levelled, unless it is the first. */
  add(item: number, worker: number): void {
    this.holders[item].push(worker)
    this.shares[item].push(0)
    this.held[worker].add(item)
    if (this.holders[item].length === 1) this.#give(item, 0, this.load[item])
  }

  /** The other holders take over its rows. */
  remove(item: number, worker: number): void {
    const at = this.holders[item].indexOf(worker)
    this.#give(item, at, -this.shares[item][at])
    this.holders[item].splice(at, 1)
    this.shares[item].splice(at, 1)
    this.held[worker].delete(item)
    this.level(item)
  }

  /** Divides an item's rows so that the holders that get any stand equally high. @returns rows that changed hands. */
  level(item: number): number {
    const [holders, shares, row] = [this.holders[item], this.shares[item], this.rowOf(item)]
    if (holders.length === 0 || (holders.length === 1 && shares[0] === this.load[item])) return 0
    const heights = this.#scratch // without this item's rows; infinite for who gets none
    let width = 0 // rows per unit of height
    let filled = 0
    for (let i = 0; i < holders.length; i += 1) {
      const slope = this.slope(row, holders[i])
      heights[i] = this.height(row, holders[i]) - slope * shares[i]
      width += 1 / slope
      filled += heights[i] / slope
    }
    let water = (this.load[item] + filled) / width
    for (let dry = true; dry; ) {
      dry = false
      for (let i = 0; i < holders.length; i += 1) {
        if (heights[i] <= water || heights[i] === Number.POSITIVE_INFINITY) continue
        width -= 1 / this.slope(row, holders[i])
        filled -= heights[i] / this.slope(row, holders[i])
        heights[i] = Number.POSITIVE_INFINITY
        dry = true
      }
      water = (this.load[item] + filled) / width
    }
    let moved = 0
    for (let i = 0; i < holders.length; i += 1) {
      const rows = Math.max(0, (water - heights[i]) / this.slope(row, holders[i]))
      moved += Math.abs(rows - shares[i])
      this.#give(item, i, rows - shares[i])
    }
    return moved
  }

  /** Levels the experts of a layer until little changes. */
  levelLayer(row: number): void {
    const several: number[] = []
    for (let item = row * this.experts; item < (row + 1) * this.experts; item += 1)
      if (this.holders[item].length > 1) several.push(item)
    const little = LEVEL_SHARE * this.rowsOf(row)
    for (let pass = 0; pass < PASSES_MAX; pass += 1)
      if (several.reduce((moved, item) => moved + this.level(item), 0) <= little) return
  }

  /** Levels every layer; twice, because the layers share the workers' totals. */
  levelAll(): void {
    for (let pass = 0; pass < 2; pass += 1) for (let row = 0; row < this.rowCount; row += 1) this.levelLayer(row)
  }

  /**
   * How far from level, in rows: the sum of the squares of the workers' times, weighted so that a level layer counts its rows.
   * Unlike a maximum it falls with each improvement, even while several workers are equally slow.
   */
  unevenness(rows: readonly number[]): number {
    const { speeds } = this
    let squares = 0
    for (let worker = 0; worker < speeds.length; worker += 1) {
      for (const row of rows) squares += (this.#perLayer[row] * this.rowsAt(row, worker) ** 2) / speeds[worker]
      squares += (this.#perTotal * this.#totalRows[worker] ** 2) / speeds[worker]
    }
    return squares
  }

  measure(): Measured {
    const speed = sum(this.speeds)
    let stepTime = 0
    for (let row = 0; row < this.rowCount; row += 1) {
      let slowest = 0
      for (const [worker, perTime] of this.speeds.entries())
        slowest = Math.max(slowest, this.rowsAt(row, worker) / perTime)
      stepTime += slowest
    }
    const rows = [...this.#totalRows]
    const mean = sum(this.load) / speed
    const longest = rows.reduce((most, own, worker) => Math.max(most, own / this.speeds[worker]), 0)
    const level = sum(this.#perLayer.map((perTime) => 1 / perTime))
    return { rows, imbalance: longest / mean, stepImbalance: stepTime / level, stepTime }
  }

  #give(item: number, at: number, rows: number): void {
    const worker = this.holders[item][at]
    this.shares[item][at] += rows
    this.#layerRows[this.rowOf(item) * this.speeds.length + worker] += rows
    this.#totalRows[worker] += rows
  }
}

const sum = (values: ArrayLike<number>): number => {
  let total = 0
  for (let i = 0; i < values.length; i += 1) total += values[i]
  return total
}

/** Rows of every item. */
const spread = (layers: readonly number[], experts: number, load: Load): Float64Array => {
  const items = new Float64Array(layers.length * experts)
  for (const [row, layer] of layers.entries()) {
    const counted = Array.from({ length: experts }, (_, expert) => load[layer]?.[expert] ?? 0)
    const total = sum(counted)
    const least = total === 0 ? 1 : (LEAST_SHARE * total) / experts
    for (const [expert, rows] of counted.entries()) items[row * experts + expert] = Math.max(rows, least)
  }
  return items
}

/** The items of a home; what is not in the space is left out. */
export const itemsOf = (space: ExpertSpace, home: Home): number[] => {
  const rows = new Map(space.layers.map((layer, row) => [layer, row]))
  return home.flatMap(({ layer, experts }) => {
    const row = rows.get(layer)
    if (row === undefined) return []
    return experts.filter((expert) => expert < space.experts).map((expert) => row * space.experts + expert)
  })
}
