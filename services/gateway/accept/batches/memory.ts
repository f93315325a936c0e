import { type Archive, archiveMaxBytes, type Change, type Found, itemBytes, type Verdict } from './archive.ts'

type Held = Found & { parts: Map<string, string>; bytes: number }

const bytesOf = (name: string, text: string): number => Buffer.byteLength(name) + Buffer.byteLength(text)

/** Who works on which item, and until when. */
const openLeases = (items: ReadonlyMap<string, Found>) => {
  const leases = new Map<string, { owner: string; until: number }>()
  const give = (id: string, owner: string, forMs: number) => leases.set(id, { owner, until: performance.now() + forMs })
  const ownerOf = (id: string): string | null => {
    const lease = leases.get(id)
    return lease && items.has(id) && performance.now() < lease.until ? lease.owner : null
  }
  const methods: Pick<Archive, 'lease' | 'renew' | 'release'> = {
    async lease(id, owner, forMs) {
      if (ownerOf(id) !== null || !items.has(id)) return false
      give(id, owner, forMs)
      return true
    },
    async renew(id, owner, forMs) {
      if (ownerOf(id) !== owner) return null
      give(id, owner, forMs)
      return items.get(id)?.version ?? null
    },
    async release(id, owner) {
      if (ownerOf(id) === owner) leases.delete(id)
    },
  }
  return { ownerOf, methods, forget: (id: string) => leases.delete(id) }
}

/** The archive of one process: gone with it. */
export const openMemoryArchive = (maxBytes = archiveMaxBytes): Archive => {
  const items = new Map<string, Held>()
  const { ownerOf, methods, forget } = openLeases(items)
  let used = 0

  const remove = async (id: string): Promise<void> => {
    const item = items.get(id)
    if (!item) return
    used -= itemBytes + item.bytes
    items.delete(id)
    forget(id)
  }
  const write = (item: Held, { parts = [], clear }: Change): void => {
    for (const [name, text] of parts) {
      if (item.parts.has(name)) continue
      item.parts.set(name, text)
      item.bytes += bytesOf(name, text)
      used += bytesOf(name, text)
    }
    if (!clear) return
    used -= item.bytes
    item.bytes = 0
    item.parts.clear()
  }
  const refusal = (item: Held | undefined, change: Change): Verdict | null => {
    const { version, owner, bounded, parts = [] } = change
    if (!item || (owner !== undefined && ownerOf(item.id) !== owner)) return 'lost'
    if (version !== undefined && item.version !== version) return 'other'
    const more = parts.reduce((sum, [name, text]) => sum + bytesOf(name, text), 0)
    return bounded && used + more > maxBytes ? 'full' : null
  }
  return {
    ...methods,
    async add(item, bounded) {
      if (items.has(item.id)) return true
      if (bounded && used + itemBytes > maxBytes) return false
      used += itemBytes
      items.set(item.id, { ...item, version: 1, parts: new Map(), bytes: 0 })
      return true
    },
    async find(id) {
      const item = items.get(id)
      if (!item) return null
      const { parts, bytes, ...found } = item
      return found
    },
    async list(kind, tenant) {
      const mine = [...items.values()].filter((item) => item.kind === kind && item.tenant === tenant)
      return mine.flatMap(({ state, body }) => (state === 'hidden' ? [] : [body])).reverse()
    },
    async change(id, change) {
      const item = items.get(id)
      const refused = refusal(item, change)
      if (refused || !item) return refused ?? 'lost'
      write(item, change)
      const { body = item.body, state = item.state, expiresAtMs = item.expiresAtMs } = change
      const told = change.body !== undefined || change.state !== undefined
      Object.assign(item, { body, state, expiresAtMs, version: item.version + (told ? 1 : 0) })
      return 'changed'
    },
    parts: async (id, names) => names.map((name) => items.get(id)?.parts.get(name) ?? null),
    names: async (id) => [...(items.get(id)?.parts.keys() ?? [])],
    remove,
    open: async () => [...items.values()].flatMap(({ id, state }) => (state === 'open' ? [id] : [])),
    async sweep(nowMs) {
      for (const { id, expiresAtMs } of [...items.values()])
        if (expiresAtMs !== null && expiresAtMs <= nowMs) await remove(id)
    },
  }
}
