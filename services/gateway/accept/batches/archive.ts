import { Code, MeshError } from '../../../../shared/errors.ts'

/** Files, batches and results there may be before nothing new is taken, all clients together. */
export const archiveMaxBytes = 256 * 2 ** 20
/** What an item counts for besides its parts. */
export const itemBytes = 16 * 2 ** 10
/** How long files and ended batches are kept. */
export const keepSeconds = 30 * 86_400

export type Kind = 'file' | 'batch'

/** hidden: a file on its way, not yet to be found; open: a batch that has not ended; kept: until it expires. */
export type State = 'hidden' | 'open' | 'kept'

/** A file or a batch. */
export type Item = {
  id: string
  kind: Kind
  /** Who alone may see it. */
  tenant: string
  state: State
  /** What is told of it, as text. */
  body: string
  /** Unix ms; null: never. */
  expiresAtMs: number | null
}

/** `version` counts the changes of body and state. */
export type Found = Item & { version: number }

/** A piece of a file by its number, or a result by its custom_id: written once, whoever writes it again. */
export type Part = readonly [name: string, text: string]

export type Change = Partial<Pick<Item, 'body' | 'state' | 'expiresAtMs'>> & {
  /** Only at this version. */
  version?: number
  /** Only while this one holds the lease. */
  owner?: string
  /** Only where there is room for the parts. */
  bounded?: boolean
  parts?: readonly Part[]
  /** The parts there are go, those of this change included. */
  clear?: boolean
}

/** lost: the item is gone, or its lease somebody else's; other: it has another version; full: there is no room. */
export type Verdict = 'changed' | 'other' | 'lost' | 'full'

/**
 * Where files, batches and results are: for all gateways of a model that share a Redis, else for one process. Methods reject with
 * UNAVAILABLE while the store is away.
 */
export type Archive = {
  /** Adds an item, or leaves the one there is; false where there is no room, which only a bounded one needs. */
  add(item: Item, bounded: boolean): Promise<boolean>
  find(id: string): Promise<Found | null>
  /** Bodies, newest first. */
  list(kind: Kind, tenant: string): Promise<string[]>
  /** All of it or nothing. */
  change(id: string, change: Change): Promise<Verdict>
  parts(id: string, names: readonly string[]): Promise<(string | null)[]>
  names(id: string): Promise<string[]>
  remove(id: string): Promise<void>
  /** Batches that have not ended. */
  open(): Promise<string[]>
  /** Whether `owner` is from now on the only one to work on the item, for so long. */
  lease(id: string, owner: string, forMs: number): Promise<boolean>
  /** The item's version; null where the lease has ended, and for good. */
  renew(id: string, owner: string, forMs: number): Promise<number | null>
  release(id: string, owner: string): Promise<void>
  /** Removes what has expired. */
  sweep(nowMs: number): Promise<void>
}

export const archiveFull = (): MeshError =>
  new MeshError(
    Code.RESOURCE_EXHAUSTED,
    `The files and batches kept here would exceed ${archiveMaxBytes} bytes: delete files that are no longer needed.`,
    { reason: 'storage_full' },
  )
