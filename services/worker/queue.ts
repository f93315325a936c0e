/** A queue that serves its owners in turn, so that a gateway with many frames does not keep one with few waiting. */
export class TurnQueue<Owner, Item> {
  /** Owners with something waiting; a Map keeps the order of turns. */
  readonly #waiting = new Map<Owner, Item[]>()
  #size = 0

  get size(): number {
    return this.#size
  }

  push(owner: Owner, item: Item): void {
    const items = this.#waiting.get(owner)
    if (items) items.push(item)
    else this.#waiting.set(owner, [item])
    this.#size += 1
  }

  /** The oldest item of the owner whose turn it is, who then stands last. */
  take(): Item | undefined {
    const turn = this.#waiting.entries().next()
    if (turn.done) return undefined
    const [owner, items] = turn.value
    const item = items.shift()
    this.#waiting.delete(owner)
    if (items.length > 0) this.#waiting.set(owner, items)
    this.#size -= 1
    return item
  }

  /** Takes out every item that matches. */
  drop(matches: (item: Item) => boolean): Item[] {
    const dropped: Item[] = []
    for (const [owner, items] of this.#waiting) {
      const kept = items.filter((item) => !matches(item) || dropped.push(item) === 0)
      if (kept.length > 0) this.#waiting.set(owner, kept)
      else this.#waiting.delete(owner)
    }
    this.#size -= dropped.length
    return dropped
  }
}
