/** Which worker holds which expert: pure decisions over plain data, so that threads and tests share them. */
import { Code, MeshError } from '../../../shared/errors.ts'
import type { LayerExperts } from '../../../shared/model/part.ts'

/** The routed experts of a model: those of every sparse layer, numbered over the whole model. */
export type ExpertSpace = { layers: readonly number[]; experts: number }

export type Expert = { layer: number; expert: number }

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

/** @returns one home, layers and experts ascending. */
export const homeOf = (experts: readonly Expert[]): LayerExperts[] => {
  const layers = new Map<number, number[]>()
  for (const { layer, expert } of experts) layers.set(layer, [...(layers.get(layer) ?? []), expert])
  return [...layers]
    .sort(([a], [b]) => a - b)
    .map(([layer, ids]) => ({ layer, experts: [...new Set(ids)].sort((a, b) => a - b) }))
}

export const expertsOf = (home: Home): Expert[] =>
  home.flatMap(({ layer, experts }) => experts.map((expert) => ({ layer, expert })))

/** Those of `experts` that are not among `others`, in their order. */
export const except = (experts: readonly Expert[], others: readonly Expert[]): Expert[] => {
  const left = new Set(others.map(({ layer, expert }) => `${layer}/${expert}`))
  return experts.filter(({ layer, expert }) => !left.has(`${layer}/${expert}`))
}

/** The workers together hold fewer experts than the model has. */
export const tooSmall = (needed: number, room: number, expertBytes: number): MeshError => {
  const missing = Math.ceil(((needed - room) * expertBytes) / 2 ** 20)
  const cause = `the model has ${needed} experts of ${(expertBytes / 2 ** 20).toFixed(1)} MiB and the workers have room for ${room}`
  return new MeshError(
    Code.RESOURCE_EXHAUSTED,
    `${cause}; add ${missing} MiB of worker memory (more workers, or --memory-mib)`,
  )
}

/** Experts that none of these homes holds, in ascending order. */
export const missing = (space: ExpertSpace, homes: readonly Home[]): Expert[] => {
  const all = space.layers.flatMap((layer) => Array.from({ length: space.experts }, (_, expert) => ({ layer, expert })))
  return except(all, homes.flatMap(expertsOf))
}

/** Share of the model's experts with at least one live replica, 0 to 1: the model can be served at 1. */
export const coverage = (space: ExpertSpace, homes: readonly Home[]): number => {
  const total = space.layers.length * space.experts
  return total === 0 ? 1 : 1 - missing(space, homes).length / total
}

/** The topology in which workers[i] holds homes[i]. Which replica comes first changes from expert to expert. */
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
  const turned = replicas.map((experts, layer) => experts.map((holders, expert) => turn(holders, layer + expert)))
  return { version, workers, replicas: turned }
}

const turn = (holders: readonly number[], by: number): number[] => {
  const first = by % Math.max(1, holders.length)
  return [...holders.slice(first), ...holders.slice(0, first)]
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

/** A worker as a topology sees it. */
export type Holder = { address: string; holds: Home; leaving: boolean }

/**
 * The topology of these workers; `before` itself where it says the same. One that is leaving is named for those experts alone
 * that none listed before it holds: list those that stay first.
 */
export const nextTopology = (before: Topology, holders: readonly Holder[]): Topology => {
  const held = new Set<string>()
  const named = holders.flatMap(({ address, holds, leaving }) => {
    const experts = expertsOf(holds).filter(({ layer, expert }) => !(leaving && held.has(`${layer}/${expert}`)))
    for (const { layer, expert } of experts) held.add(`${layer}/${expert}`)
    return experts.length > 0 ? [{ address, home: homeOf(experts) }] : []
  })
  const next = topologyOf(
    before.version + 1,
    named.map(({ address }) => address),
    named.map(({ home }) => home),
  )
  const text = ({ workers, replicas }: Topology): string => JSON.stringify([workers, replicas])
  return text(next) === text(before) ? before : next
}
