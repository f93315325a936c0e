/** Who in this process reads which request; decides when nobody does any more. */
export type Readers = {
  attach(request: string): void
  leave(request: string, graceSeconds: number | null): void
  close(): void
}

/**
 * `on.first` and `on.none` hear when a request gets its first reader here and loses its last; `on.abandoned` when it has had none
 * here for the grace of the reader that left last; never where that is null.
 */
export const openReaders = (on: {
  first(request: string): void
  none(request: string): void
  abandoned(request: string): void
}): Readers => {
  const readers = new Map<string, number>()
  const graces = new Map<string, NodeJS.Timeout>()

  const forgive = (request: string): void => {
    clearTimeout(graces.get(request))
    graces.delete(request)
  }
  return {
    attach(request) {
      forgive(request)
      const count = readers.get(request) ?? 0
      readers.set(request, count + 1)
      if (count === 0) on.first(request)
    },
    leave(request, graceSeconds) {
      const count = (readers.get(request) ?? 0) - 1
      if (count > 0) {
        readers.set(request, count)
        return
      }
      readers.delete(request)
      on.none(request)
      if (graceSeconds === null) return
      if (graceSeconds === 0) {
        on.abandoned(request)
        return
      }
      const grace = setTimeout(() => {
        graces.delete(request)
        on.abandoned(request)
      }, graceSeconds * 1000)
      graces.set(request, grace.unref())
    },
    close() {
      for (const grace of graces.values()) clearTimeout(grace)
    },
  }
}
