/**
 * DeepSeek's expert-parallel load balancer, after the description in github.com/deepseek-ai/EPLB: copies go to the experts with
 * the most load per copy, and equal machines with equal numbers of slots are filled heaviest first. balance.ts goes beyond it
 * (unequal workers, rules, the cost of moving); this is what it is measured against.
 */
import { invalid } from '../../../shared/errors.ts'

export type EplbShape = {
  /** Expert slots of all GPUs together. */
  slots: number
  gpus: number
  /** Machines and expert groups of group-limited routing; a group stays on one machine where they divide. Default 1 and 1. */
  nodes?: number
  groups?: number
}

/** slots[layer][slot]: expert in the slot, GPU after GPU; copies[layer][expert]. */
export type EplbPlacement = { slots: number[][]; copies: number[][] }

/** An item's pack, and its place inside it. */
type Packed = { pack: number; rank: number }

/**
 * Divides items into packs of equal number: heaviest first, each into the lightest pack that is not full.
 * Ties go to the lower index.
 */
export const packEvenly = (weights: readonly number[], packs: number): Packed[] => {
  const perPack = weights.length / packs
  const sums = Array<number>(packs).fill(0)
  const sizes = Array<number>(packs).fill(0)
  const placed = Array<Packed>(weights.length)
  if (perPack === 1) return weights.map((_, pack) => ({ pack, rank: 0 }))
  for (const item of [...weights.keys()].sort((a, b) => weights[b] - weights[a] || a - b)) {
    let pack = -1
    for (let i = 0; i < packs; i += 1) if (sizes[i] < perPack && (pack < 0 || sums[i] < sums[pack])) pack = i
    placed[item] = { pack, rank: sizes[pack] }
    sums[pack] += weights[item]
    sizes[pack] += 1
  }
  return placed
}

/**
 * Experts once each, then every further slot to the expert with the most load per copy.
 * @param enough slots stay free once no copy has more load than this.
 */
export const replicate = (
  load: ArrayLike<number>,
  slots: number,
  enough = -1,
): { expertOf: number[]; copies: number[] } => {
  const copies = Array<number>(load.length).fill(1)
  const expertOf = [...copies.keys()]
  while (expertOf.length < slots) {
    let hottest = 0
    for (let e = 1; e < load.length; e += 1) if (load[e] / copies[e] > load[hottest] / copies[hottest]) hottest = e
    if (load[hottest] / copies[hottest] <= enough) break
    copies[hottest] += 1
    expertOf.push(hottest)
  }
  return { expertOf, copies }
}

/**
 * @param load token rows, [layers, experts].
 * @throws MeshError INVALID_ARGUMENT for shapes that do not divide, which the published algorithm does not cover.
 */
export const eplb = (load: readonly (readonly number[])[], shape: EplbShape): EplbPlacement => {
  const { slots, gpus, nodes = 1, groups = 1 } = shape
  const experts = load[0]?.length ?? 0
  if (slots < experts) throw invalid(`EPLB places ${experts} experts into at least as many slots, not ${slots}`)
  // Where the groups do not divide among the machines, all machines are one.
  const hierarchical = groups % nodes === 0
  const at = hierarchical ? { slots, gpus, nodes, groups } : { slots, gpus, nodes: 1, groups: 1 }
  for (const [whole, parts] of [
    [slots, gpus],
    [gpus, at.nodes],
    [experts, at.groups],
  ])
    if (whole % parts !== 0) throw invalid(`EPLB needs equal parts, and ${whole} is no multiple of ${parts}`)
  const layers = load.map((row) => placeLayer(row, at))
  return { slots: layers.map((layer) => layer.slots), copies: layers.map((layer) => layer.copies) }
}

/** One layer: groups → machines, copies inside each machine, copies → its GPUs. */
const placeLayer = (load: readonly number[], { slots, gpus, nodes, groups }: Required<EplbShape>) => {
  const groupSize = load.length / groups
  const groupLoad = Array.from({ length: groups }, (_, g) =>
    load.slice(g * groupSize, (g + 1) * groupSize).reduce((sum, rows) => sum + rows, 0),
  )
  const homes = packEvenly(groupLoad, nodes)
  const placed: number[] = []
  const copies = load.map(() => 0)
  for (let node = 0; node < nodes; node += 1) {
    const own = [...homes.keys()]
      .filter((g) => homes[g].pack === node)
      .sort((a, b) => homes[a].rank - homes[b].rank)
      .flatMap((g) => Array.from({ length: groupSize }, (_, i) => g * groupSize + i))
    const inside = replicate(
      own.map((expert) => load[expert]),
      slots / nodes,
    )
    const perCopy = inside.expertOf.map((e) => load[own[e]] / inside.copies[e])
    const perGpu = slots / gpus
    const order = Array<number>(inside.expertOf.length)
    for (const [i, { pack, rank }] of packEvenly(perCopy, gpus / nodes).entries())
      order[pack * perGpu + rank] = own[inside.expertOf[i]]
    placed.push(...order)
    for (const [e, count] of inside.copies.entries()) copies[own[e]] = count
  }
  return { slots: placed, copies }
}
