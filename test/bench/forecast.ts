/** How long a step takes on a cluster that is not here, from what its parts were measured to cost. Pure. */
import { deal } from '../../services/gateway/placement/repair.ts'
import { simulate, traffic, type WireShape } from '../../services/gateway/placement/simulate.ts'
import type { ModelConfig, Precision } from '../../shared/model/config.ts'
import { seeded } from '../support/random.ts'

/** Of a step with so many token rows, ms. */
export type Costs = {
  rows: number
  /** What the gateway does while no expert can run. */
  gatewayMs: number
  /** What it does beside the experts: shared experts of sparse layers. */
  besideMs: number
  /** One token row through one expert, on one thread. */
  assignmentMs: number
  /** A frame to a worker and back, and each byte of token rows. */
  messageMs: number
  byteMs: number
}

export type Machines = {
  workers: number
  /** Of each worker. */
  threads: number
  /** Cores that all processes share; null: every process has a machine of its own. */
  cores: number | null
}

/** Steps drawn: the slowest worker of a layer is chance where rows are few. */
const STEPS = 200

/**
 * Mean ms of a step: the gateway's own time, then in each layer the slowest worker's, or on shared cores what all of them and the gateway
 * beside them need together, then the wire, which is packed and unpacked by one thread.
 */
export const forecast = (config: ModelConfig, precision: Precision, costs: Costs, machines: Machines): number => {
  const { workers, threads, cores } = machines
  const { topK, experts } = config.moe
  const layers = [...config.layers.keys()].filter((layer) => config.layers[layer].ffn === 'sparse')
  const space = { layers, experts }
  const speeds = Array<number>(workers).fill(threads / costs.assignmentMs)
  const homes = deal(space, Array<number>(workers).fill(layers.length * experts))
  const next = seeded(1)
  let expertsMs = 0
  for (let step = 0; step < STEPS; step++) {
    const load = drawLoad(layers, experts, topK, costs.rows, next)
    const slowestMs = simulate({ space, speeds, homes, load }).stepTime
    const busyMs = layers.length * costs.rows * topK * costs.assignmentMs + costs.besideMs
    expertsMs += Math.max(slowestMs, costs.besideMs, cores === null ? 0 : busyMs / cores) / STEPS
  }
  const shape: WireShape = { topK, hidden: config.hidden, precision }
  const sent = traffic({ space, speeds, homes, load: [] }, shape, costs.rows)
  const wireMs = costs.rows * (sent.messages * costs.messageMs + (sent.bytesOut + sent.bytesIn) * costs.byteMs)
  return costs.gatewayMs + expertsMs + wireMs
}

/** Token rows by [layer][expert] of one step whose rows choose at random. */
const drawLoad = (
  layers: readonly number[],
  experts: number,
  topK: number,
  rows: number,
  next: (limit: number) => number,
): number[][] => {
  const load: number[][] = []
  for (const layer of layers) {
    const own = Array<number>(experts).fill(0)
    for (let row = 0; row < rows; row++) {
      const chosen = new Set<number>()
      while (chosen.size < topK) chosen.add(next(experts))
      for (const expert of chosen) own[expert]++
    }
    load[layer] = own
  }
  return load
}
