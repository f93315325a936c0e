/** From what workers hold to what they shall hold, in rounds that never leave an expert without a copy or a worker without room. */

/** One round: first every worker loads, then, when all have, every worker unloads. Items per worker. */
export type ItemRound = { loads: number[][]; unloads: number[][] }

export type Sequence = {
  rounds: ItemRound[]
  /** What the workers hold at the end: `to`, or less of a change where the workers have no room to get there. */
  reached: ReadonlySet<number>[]
}

/**
 * @param from items of each worker now. @param to items of each worker wanted. @param slots items that each has room for.
 * An item never has fewer copies than the lesser of now and wanted; only where nothing else would go on is one copy enough.
 * Changes for which there is no room even then are left out.
 */
export const sequence = (
  from: readonly ReadonlySet<number>[],
  to: readonly ReadonlySet<number>[],
  slots: readonly number[],
): Sequence => {
  const held = from.map((items) => new Set(items))
  const copies = countCopies(from)
  const [first, wanted] = [new Map(copies), countCopies(to)]
  const least = (item: number): number => Math.min(first.get(item) ?? 0, wanted.get(item) ?? 0)
  const rounds: ItemRound[] = []
  for (let needed = least; ; ) {
    const loads = held.map((items, worker) => {
      const free = Math.max(0, slots[worker] - items.size)
      return [...to[worker]].filter((item) => !items.has(item)).slice(0, free)
    })
    for (const [worker, items] of loads.entries())
      for (const item of items) {
        held[worker].add(item)
        copies.set(item, (copies.get(item) ?? 0) + 1)
      }
    const unloads = held.map((items, worker) =>
      [...items].filter((item) => {
        const left = (copies.get(item) ?? 0) - 1
        if (to[worker].has(item) || left < needed(item)) return false
        copies.set(item, left)
        return true
      }),
    )
    for (const [worker, items] of unloads.entries()) for (const item of items) held[worker].delete(item)
    if ([...loads, ...unloads].some((items) => items.length > 0)) rounds.push({ loads, unloads })
    else if (needed === least) needed = () => 1
    else return { rounds, reached: held }
  }
}

const countCopies = (held: readonly ReadonlySet<number>[]): Map<number, number> => {
  const copies = new Map<number, number>()
  for (const items of held) for (const item of items) copies.set(item, (copies.get(item) ?? 0) + 1)
  return copies
}
