/** A number of places that several share: who comes first goes first. */
export type Room = {
  readonly places: number
  /**
   * Takes `count` places once they are free, all there are where it asks for more; how many it took, to be left again, or 0 when
   * `signal` aborted first.
   */
  enter(count: number, signal: AbortSignal): Promise<number>
  leave(count: number): void
}

export const openRoom = (places: number): Room => {
  const waiting = new Set<{ count: number; go: () => void }>()
  let free = places

  const admit = (): void => {
    for (const next of waiting) {
      if (next.count > free) return
      waiting.delete(next)
      free -= next.count
      next.go()
    }
  }
  return {
    places,
    enter: (asked, signal) =>
      new Promise((resolve) => {
        if (signal.aborted) return resolve(0)
        const count = Math.min(asked, places)
        const giveUp = (): void => {
          waiting.delete(next)
          resolve(0)
          admit()
        }
        const go = (): void => {
          signal.removeEventListener('abort', giveUp)
          resolve(count)
        }
        const next = { count, go }
        signal.addEventListener('abort', giveUp, { once: true })
        waiting.add(next)
        admit()
      }),
    leave(count) {
      free += count
      admit()
    },
  }
}
