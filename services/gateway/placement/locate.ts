/** Which worker holds which expert: pure decisions over plain data, so that threads and tests share them. */
import { Code, MeshError } from '../../../shared/errors.ts'
import type { LayerExperts } from '../../../shared/model/part.ts'

/** The routed experts of a model: those of every sparse layer, numbered over the whole model. */
export type ExpertSpace = { layers: readonly number[]; experts: number }

/** One worker's experts of one model. */
export type Home = readonly LayerExperts[]

/** A numbered version of the placement; plain data. */
export type Topology = {
  version: number
  /** Addresses of the workers. */
  workers: readonly string[]
  /** replicas[layer][expert]: indices of the workers that hold it; empty for dense layers. */
  replicas: readonly (readonly (readonly number[])[])[]
}

/**
 * Deals every expert to one worker, in proportion to the workers' memory: within each layer too, so that no layer waits for
 * one machine. Smooth weighted round robin: each worker gains its weight per turn, the richest is dealt to and pays the sum.
 * @param expertBytes what one expert takes; a full worker is dealt no more.
 * @returns one home per worker, layers and experts ascending.
 * @throws MeshError RESOURCE_EXHAUSTED when the workers together are too small.
 */
export const place = (
  space: ExpertSpace & { expertBytes: number },
  workers: readonly { memoryBytes: number }[],
): Home[] => {
  const room = workers.map(({ memoryBytes }) => Math.floor(memoryBytes / space.expertBytes))
  const total = room.reduce((sum, count) => sum + count, 0)
  const needed = space.layers.length * space.experts
  if (total < needed) throw tooSmall(needed, total, space.expertBytes)
  const credit = workers.map(() => 0)
  const dealt = workers.map(() => new Map<number, number[]>())
  const left = [...room]
  for (const layer of space.layers) {
    for (let expert = 0; expert < space.experts; expert += 1) {
      const worker = richest(credit, room, left)
      left[worker] -= 1
      dealt[worker].set(layer, [...(dealt[worker].get(layer) ?? []), expert])
    }
  }
  return dealt.map((layers) => [...layers].map(([layer, experts]) => ({ layer, experts })))
}

const richest = (credit: number[], room: readonly number[], left: readonly number[]): number => {
  let best = -1
  let weights = 0
  for (let worker = 0; worker < room.length; worker += 1) {
    if (left[worker] === 0) continue
    credit[worker] += room[worker]
    weights += room[worker]
    if (best < 0 || credit[worker] > credit[best]) best = worker
  }
  credit[best] -= weights
  return best
}

const tooSmall = (needed: number, room: number, expertBytes: number): MeshError => {
  const missing = Math.ceil(((needed - room) * expertBytes) / 2 ** 20)
  const cause = `the model has ${needed} experts of ${(expertBytes / 2 ** 20).toFixed(1)} MiB and the workers have room for ${room}`
  return new MeshError(
    Code.RESOURCE_EXHAUSTED,
    `${cause}; add ${missing} MiB of worker memory (more workers, or --memory-mib)`,
  )
}

/** Experts that none of these homes holds, in ascending order. */
export const missing = (space: ExpertSpace, homes: readonly Home[]): { layer: number; expert: number }[] => {
  const held = new Set(homes.flat().flatMap(({ layer, experts }) => experts.map((expert) => `${layer}/${expert}`)))
  const all = space.layers.flatMap((layer) => Array.from({ length: space.experts }, (_, expert) => ({ layer, expert })))
  return all.filter(({ layer, expert }) => !held.has(`${layer}/${expert}`))
}

/** Share of the model's experts with at least one live replica, 0 to 1: the model can be served at 1. */
export const coverage = (space: ExpertSpace, homes: readonly Home[]): number => {
  const total = space.layers.length * space.experts
  return total === 0 ? 1 : 1 - missing(space, homes).length / total
}

/** The topology in which workers[i] holds homes[i]. */
export const topologyOf = (version: number, workers: readonly string[], homes: readonly Home[]): Topology => {
  const replicas: number[][][] = []
  for (const [worker, home] of homes.entries()) {
    for (const { layer, experts } of home) {
      while (replicas.length <= layer) replicas.push([])
      for (const expert of experts) {
        while (replicas[layer].length <= expert) replicas[layer].push([])
        replicas[layer][expert].push(worker)
      }
    }
  }
  return { version, workers, replicas }
}

/**
 * The workers that hold an expert, as indices into topology.workers; never empty.
 * @throws MeshError UNAVAILABLE naming (layer, expert) when none does.
 */
export const locate = (topology: Topology, layer: number, expert: number): readonly number[] => {
  const workers = topology.replicas[layer]?.[expert] ?? []
  if (workers.length > 0) return workers
  throw new MeshError(Code.UNAVAILABLE, `no worker holds (layer ${layer}, expert ${expert})`, {
    reason: 'expert_missing',
  })
}
