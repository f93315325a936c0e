import assert from 'node:assert/strict'
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import { allFinite } from '../../../shared/model/rows.ts'
import { commonPrefix, type Entry, rowsOf } from './entry.ts'
import { Pool } from './pool.ts'
import { type CacheArray, copyRows, scatterRows } from './rows.ts'

/** Shorter prefixes are not reused: running that few tokens in a chunk costs next to nothing. */
export const minimumReuse = 16

/** Attention's bits do not depend on capacity only where it is a multiple of this. */
const capacityStep = 128

export type CacheOptions = {
  layers: number
  /** Number of the first of them in the model; 0 unless told otherwise. */
  firstLayer?: number
  /** gqa: K and V, each {kvHeads, headDim}; mla: one, {1, kvLora + rope}. */
  arrays: readonly CacheArray[]
  /** Token rows of a block, over all layers and arrays; a multiple of 128. */
  blockRows: number
  memoryBytes: number
  /** Finished sequences kept for reuse, at most; blocks that are needed end them earlier. */
  retainedMax: number
}

export type CacheStats = {
  totalBlocks: number
  freeBlocks: number
  /** Held by finished sequences for reuse; these count as free. */
  retainedBlocks: number
  bytes: number
  /** Prompt tokens looked up, and those found. */
  queriedTokens: number
  hitTokens: number
}

/**
 * Keys and values of all sequences of one model. Blocks are units of accounting and growth; storage is one contiguous array
 * per (sequence, layer, array), and it grows by copying. Finished sequences stay, as long as nobody needs their blocks, for
 * later prompts that begin alike: rows are copied, or the whole entry handed over where nothing of it would be lost.
 *
 * Rows beyond a sequence's length hold zeros or older rows, never NaN or infinity: arrays start as zeros and `append`, the
 * only door for new values, refuses rows that are not finite before it writes any of them. So nothing needs clearing.
 */
export class KvCache {
  readonly totalBlocks: number
  readonly #options: CacheOptions
  readonly #pool: Pool
  readonly #live = new Map<string, Entry>()
  /** Least recently used first. None begins with all of another of the same salt. */
  readonly #retained = new Set<Entry>()
  #liveBlocks = 0
  #retainedBlocks = 0
  #queriedTokens = 0
  #hitTokens = 0

  /** Throws INVALID_ARGUMENT where memoryBytes is not enough for one block. */
  constructor(options: CacheOptions) {
    const { layers, arrays, blockRows, memoryBytes } = options
    assert(layers > 0 && arrays.length > 0 && blockRows > 0 && blockRows % capacityStep === 0)
    const arrayBytes = arrays.map(({ heads, dim }) => heads * dim * blockRows * Float32Array.BYTES_PER_ELEMENT)
    const blockBytes = layers * arrayBytes.reduce((sum, bytes) => sum + bytes, 0)
    if (memoryBytes < blockBytes) {
      const cure = `give the KV cache at least ${blockBytes} bytes`
      throw invalid(`${memoryBytes} bytes hold not one block of ${blockRows} tokens of this model; ${cure}.`)
    }
    // While a sequence grows, one array exists twice: up to totalBlocks − 1 blocks of the largest array.
    const spareBytes = Math.max(...arrayBytes)
    this.totalBlocks = Math.floor((memoryBytes + spareBytes) / (blockBytes + spareBytes))
    this.#options = options
    this.#pool = new Pool(memoryBytes)
  }

  /** Blocks no live sequence holds; retained ones are among them, because they are given up as soon as they are needed. */
  get freeBlocks(): number {
    return this.totalBlocks - this.#liveBlocks
  }

  get stats(): CacheStats {
    const { totalBlocks, freeBlocks } = this
    const counts = { queriedTokens: this.#queriedTokens, hitTokens: this.#hitTokens }
    return { totalBlocks, freeBlocks, retainedBlocks: this.#retainedBlocks, bytes: this.#pool.bytes, ...counts }
  }

  /** The longest sequence that fits, alone. */
  get tokensMax(): number {
    return this.totalBlocks * this.#options.blockRows
  }

  blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.#options.blockRows)
  }

  /** Blocks of a live sequence; 0 for any other id. */
  held(id: string): number {
    return this.#live.get(id)?.blocks ?? 0
  }

  /**
   * Makes a sequence live and returns how many of its first tokens are cached already, taken from the live or retained
   * sequence of the same salt that shares the longest prefix; never all of them, since the last must run to give logits.
   * `salt` names all that the rows depend on besides the ids. `ids` is read as long as the sequence lives; it may grow.
   * Never needs more than blocksFor(ids.length) blocks; finds less where there is no room for a copy.
   */
  open(id: string, ids: readonly number[], salt: string): number {
    assert(!this.#live.has(id), `sequence ${id} is open already`)
    const source = this.#match(ids, salt)
    const entry = (source && this.#reuse(source.entry, source.tokens, ids)) ?? this.#blank(ids, salt)
    this.#live.set(id, entry)
    const cached = rowsOf(entry)
    this.#queriedTokens += ids.length
    this.#hitTokens += cached
    return cached
  }

  /**
   * Makes a sequence live with copies of all rows of another live one, whose ids are the first of `ids`, which is read as long
   * as the sequence lives. Needs blocksFor those rows. False, with nothing changed, where they do not fit.
   */
  fork(id: string, ids: readonly number[], from: string): boolean {
    assert(!this.#live.has(id), `sequence ${id} is open already`)
    const source = this.#entry(from)
    const rows = rowsOf(source)
    assert(rows <= ids.length, 'there is an id for every row')
    if (this.blocksFor(rows) > this.freeBlocks) return false
    this.#live.set(id, this.#copy(source, rows, ids))
    return true
  }

  /** Grows a live sequence to hold that many tokens. False, with nothing changed, where they do not fit. */
  reserve(id: string, tokens: number): boolean {
    const entry = this.#entry(id)
    const blocks = this.blocksFor(tokens)
    if (blocks <= entry.blocks) return true
    if (blocks - entry.blocks > this.freeBlocks) return false
    this.#grow(entry, blocks)
    return true
  }

  /**
   * Stores token rows from position `begin` on, which is at most the rows there; rows: per array [S, heads·dim].
   * Throws INTERNAL, with nothing written, where a value is not finite.
   */
  append(id: string, layer: number, rows: readonly Float32Array[], begin: number): void {
    const entry = this.#entry(id)
    const { arrays, blockRows } = this.#options
    assert(rows.length === arrays.length && begin <= entry.written[layer], 'rows follow those already there')
    const end = begin + rows[0].length / (arrays[0].heads * arrays[0].dim)
    assert(Number.isInteger(end) && end <= entry.blocks * blockRows, 'room was reserved for the rows')
    for (const [i, { heads, dim }] of arrays.entries()) {
      assert(rows[i].length === (end - begin) * heads * dim, 'every array has the same number of rows')
      if (allFinite(rows[i])) continue
      const cause = `Layer ${layer + (this.#options.firstLayer ?? 0)} gave keys or values that are not finite at tokens ${begin} to ${end - 1}`
      throw new MeshError(Code.INTERNAL, `${cause}; check that layer's weights in the checkpoint.`)
    }
    for (const [i, array] of arrays.entries()) scatterRows(rows[i], entry.data[layer][i], array, begin)
    entry.written[layer] = end
  }

  /** One array of a layer, [heads, capacity, dim], not a copy: good until the sequence is reserved for, released or dropped. */
  view(id: string, layer: number, array: number): { data: Float32Array; capacity: number } {
    const data = this.#entry(id).data[layer][array]
    const { heads, dim } = this.#options.arrays[array]
    return { data, capacity: data.length / (heads * dim) }
  }

  /** Ends a sequence; ids are its tokens. retain: its rows stay for reuse as long as nothing else needs the room. */
  release(id: string, { retain, ids }: { retain: boolean; ids: readonly number[] }): void {
    const entry = this.#close(id)
    const rows = rowsOf(entry)
    assert(rows <= ids.length, 'there is an id for every row')
    if (!retain || rows < minimumReuse) {
      this.#free(entry)
      return
    }
    entry.ids = ids.slice(0, rows)
    for (const other of this.#retained) {
      if (other.salt !== entry.salt) continue
      const common = commonPrefix(other.ids, entry.ids, Math.min(other.ids.length, rows))
      if (common === rows) {
        this.#touch(other)
        this.#free(entry)
        return
      }
      if (common === other.ids.length) this.#evict(other)
    }
    this.#retained.add(entry)
    this.#retainedBlocks += entry.blocks
    for (const oldest of this.#retained) if (this.#retained.size > this.#options.retainedMax) this.#evict(oldest)
  }

  /** Ends a sequence whose rows nobody is to reuse: preempted, failed. */
  drop(id: string): void {
    this.#free(this.#close(id))
  }

  /** Ends all sequences and lets go of the memory. */
  close(): void {
    for (const id of [...this.#live.keys()]) this.drop(id)
    for (const entry of this.#retained) this.#evict(entry)
    this.#pool.close()
  }

  #entry(id: string): Entry {
    const entry = this.#live.get(id)
    assert(entry, `sequence ${id} is open`)
    return entry
  }

  #blank(ids: readonly number[], salt: string): Entry {
    const { layers, arrays } = this.#options
    const data = Array.from({ length: layers }, () => arrays.map(() => new Float32Array(0)))
    return { ids, salt, blocks: 0, written: new Array<number>(layers).fill(0), data }
  }

  /** The longest usable prefix; among equals the one used last. */
  #match(ids: readonly number[], salt: string): { entry: Entry; tokens: number } | undefined {
    let best: { entry: Entry; tokens: number } | undefined
    for (const entry of [...this.#live.values(), ...this.#retained]) {
      if (entry.salt !== salt) continue
      const tokens = commonPrefix(entry.ids, ids, Math.min(rowsOf(entry), ids.length - 1))
      if (tokens >= Math.max(minimumReuse, best?.tokens ?? 0)) best = { entry, tokens }
    }
    return best
  }

  /** An entry for ids with the first `tokens` rows of source. */
  #reuse(source: Entry, tokens: number, ids: readonly number[]): Entry | undefined {
    const retained = this.#retained.has(source)
    const blocks = this.blocksFor(tokens)
    const copyFits = blocks <= this.freeBlocks - (retained ? source.blocks : 0)
    const wanted = tokens === rowsOf(source) || !copyFits
    if (retained && wanted && source.blocks <= this.blocksFor(ids.length)) {
      this.#retained.delete(source)
      this.#retainedBlocks -= source.blocks
      this.#liveBlocks += source.blocks
      source.ids = ids
      source.written.fill(tokens)
      return source
    }
    if (!copyFits) return undefined
    if (retained) this.#touch(source)
    return this.#copy(source, tokens, ids)
  }

  /** An entry for ids with copies of the first rows of source, for which there are blocks. */
  #copy(source: Entry, rows: number, ids: readonly number[]): Entry {
    const entry = this.#blank(ids, source.salt)
    this.#grow(entry, this.blocksFor(rows))
    for (const [layer, arrays] of entry.data.entries())
      for (const [i, to] of arrays.entries()) copyRows(source.data[layer][i], to, this.#options.arrays[i], rows)
    entry.written.fill(rows)
    return entry
  }

  /** Gives a live entry (or one about to be) more blocks, which are free. */
  #grow(entry: Entry, blocks: number): void {
    const more = blocks - entry.blocks
    for (const oldest of this.#retained) {
      if (more <= this.freeBlocks - this.#retainedBlocks) break
      this.#evict(oldest)
    }
    for (const [layer, arrays] of entry.data.entries()) {
      for (const [i, from] of arrays.entries()) {
        const { heads, dim } = this.#options.arrays[i]
        const to = this.#pool.take(heads * blocks * this.#options.blockRows * dim)
        copyRows(from, to, this.#options.arrays[i], entry.written[layer])
        arrays[i] = to
        this.#pool.give(from)
      }
    }
    entry.blocks = blocks
    this.#liveBlocks += more
  }

  #close(id: string): Entry {
    const entry = this.#entry(id)
    this.#live.delete(id)
    this.#liveBlocks -= entry.blocks
    return entry
  }

  #evict(entry: Entry): void {
    this.#retained.delete(entry)
    this.#retainedBlocks -= entry.blocks
    this.#free(entry)
  }

  #touch(entry: Entry): void {
    this.#retained.delete(entry)
    this.#retained.add(entry)
  }

  #free(entry: Entry): void {
    for (const arrays of entry.data) for (const data of arrays) this.#pool.give(data)
  }
}
