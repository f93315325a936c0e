/** What a placement would do under a routing trace, without a worker. */
import type { Precision } from '../../../shared/model/config.ts'
import { oddsOf, weightOf } from './choose.ts'
import type { ExpertSpace, Home } from './locate.ts'
import { itemsOf, type Load, type Measured, Split } from './split.ts'

export type Simulated = {
  space: ExpertSpace
  /** Token rows per unit of time of each worker. */
  speeds: readonly number[]
  homes: readonly Home[]
  /** Token rows by [layer][expert] of the steps simulated. */
  load: Load
}

const splitOver = ({ space, speeds, homes, load }: Simulated): Split => {
  const held = homes.map((home) => itemsOf(space, home))
  const copies = held.reduce((sum, items) => sum + items.length, 0)
  const split = new Split({ space, speeds, load, copiesPerLayer: copies / Math.max(1, space.layers.length) })
  for (const [worker, items] of held.entries()) for (const item of items) split.add(item, worker)
  split.levelAll()
  return split
}

/** Rows per worker, and the time of a step in which each layer waits for its slowest worker. */
export const simulate = (simulated: Simulated): Measured => splitOver(simulated).measure()

export type Traffic = {
  /** Frames to workers, over all layers; each is answered by one. */
  messages: number
  /** Of token rows and their indices; what gRPC adds is not counted. */
  bytesOut: number
  bytesIn: number
}

export type WireShape = { topK: number; hidden: number; precision: Precision }

/** Bytes of an assignment's row index and expert id. */
const ASSIGNMENT_BYTES = 8
const SCALE_BYTES = 4

/**
 * Expected traffic of one token in steps of `batch` token rows, as dispatch sends it: a row goes once to each worker that runs one
 * of its experts, and comes back once per expert in fp32. Rows choose independently of one another.
 */
export const traffic = (simulated: Simulated, { topK, hidden, precision }: WireShape, batch: number): Traffic => {
  const split = splitOver(simulated)
  const rowBytes = precision === 'int8' ? hidden + SCALE_BYTES : 4 * hidden
  let [messages, rowsOut] = [0, 0]
  for (let row = 0; row < split.rowCount; row += 1) {
    for (const reached of reachOf(split, row, topK)) {
      rowsOut += reached
      messages += 1 - (1 - reached) ** batch
    }
  }
  const assignments = topK * split.rowCount
  return {
    messages: messages / batch,
    bytesOut: rowsOut * rowBytes + assignments * ASSIGNMENT_BYTES,
    bytesIn: assignments * 4 * hidden,
  }
}

/** For each worker with experts of a layer, the chance that a token row has one of its topK there. */
const reachOf = (split: Split, row: number, topK: number): number[] => {
  const begin = row * split.experts
  const total = split.rowsOf(row)
  const shares = split.load.subarray(begin, begin + split.experts).map((rows) => Math.min(1, (topK * rows) / total))
  const odds = oddsOf(shares, topK)
  const all = weightOf(odds, topK)
  /** By worker: odds that a row has an expert, and has it elsewhere. */
  const elsewhere = new Map<number, Float64Array>()
  for (let e = 0; e < split.experts; e += 1) {
    for (const [i, worker] of split.holders[begin + e].entries()) {
      const others = elsewhere.get(worker) ?? Float64Array.from(odds)
      others[e] *= 1 - split.shares[begin + e][i] / split.load[begin + e]
      elsewhere.set(worker, others)
    }
  }
  return [...elsewhere.values()].map((others) => 1 - weightOf(others, topK) / all)
}
