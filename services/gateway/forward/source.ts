import { createHash } from 'node:crypto'
import type { Sequence } from '../sequence.ts'
import type { KvCache } from './cache.ts'

/**
 * A decoder's layers see a source's rows as keys and values of the shape of their own, so these lie in the same cache, under this id,
 * and count in its blocks.
 */
export const sourceId = (id: string): string => `source of ${id}`

/** Makes room for what the decoder sees of a sequence's source; the blocks are free. */
export const openSource = (cache: KvCache, { request: { id, source } }: Sequence): boolean => {
  cache.open(sourceId(id), [], sourceId(id))
  return cache.reserve(sourceId(id), source.length)
}

/** Ends what openSource began, where the sequence has a source. */
export const dropSource = (cache: KvCache, { request: { id, source } }: Sequence): void => {
  if (source.length > 0) cache.drop(sourceId(id))
}

/** Names a source by its ids: a decoder's rows depend on all of them. */
export const sourceName = (source: readonly number[]): string =>
  createHash('sha256').update(source.join(' ')).digest('hex')
