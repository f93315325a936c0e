import { randomUUID } from 'node:crypto'
import { Code, MeshError } from '../../../../shared/errors.ts'
import { type Archive, type Found, keepSeconds, type Part } from './archive.ts'
import { advance, type Batch, type BatchEvent, hasEnded } from './batch.ts'
import { isFailed, type Result } from './results.ts'

/** How long a gateway that is gone keeps its batches from others. */
export const leaseMs = 3_000

const batchOf = ({ body }: Found): Batch => JSON.parse(body) as Batch
const nowSeconds = (): number => Math.floor(Date.now() / 1000)

/** The change that turns a batch at this version into the next. */
export const changeTo = (version: number, next: Batch) => ({
  version,
  body: JSON.stringify(next),
  ...(hasEnded(next) && { state: 'kept' as const, expiresAtMs: (nowSeconds() + keepSeconds) * 1000, clear: true }),
})

type Answered = { customId: string; result: Result }

/**
 * A batch on which this process alone works. What it writes counts only while the lease lasts; once that has ended `lost` aborts, and
 * methods reject.
 */
export class Claim {
  readonly id: string
  readonly tenant: string
  readonly #archive: Archive
  readonly #owner: string
  readonly #lost = new AbortController()
  #batch: Batch
  #version: number
  #pending: Answered[] = []
  #flushing: Promise<void> | null = null
  /** Changes follow one another. */
  #last: Promise<unknown> = Promise.resolve()

  private constructor(archive: Archive, owner: string, found: Found) {
    this.id = found.id
    this.tenant = found.tenant
    this.#archive = archive
    this.#owner = owner
    this.#batch = batchOf(found)
    this.#version = found.version
  }

  /** null where somebody else has it, or it has ended. */
  static async take(archive: Archive, id: string): Promise<Claim | null> {
    // A name of its own for each lease: one that has ended stays so.
    const owner = randomUUID()
    if (!(await archive.lease(id, owner, leaseMs))) return null
    const found = await archive.find(id)
    if (found?.state === 'open') return new Claim(archive, owner, found)
    await archive.release(id, owner)
    return null
  }

  get batch(): Batch {
    return this.#batch
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  /** Keeps the lease, and learns what others have changed. */
  async renew(): Promise<void> {
    const version = await this.#archive.renew(this.id, this.#owner, leaseMs)
    if (version === null) this.#lost.abort()
    else if (version !== this.#version) await this.#serially(() => this.#refresh())
  }

  release(): Promise<void> {
    return this.#archive.release(this.id, this.#owner)
  }

  turn(event: BatchEvent): Promise<void> {
    return this.#serially(() => this.#write([event], []))
  }

  /** Resolves when the result is kept. Those that come while a change is under way go with the next. */
  record(customId: string, result: Result): Promise<void> {
    this.#pending.push({ customId, result })
    this.#flushing ??= this.#serially(() => {
      this.#flushing = null
      return this.#writeResults(this.#pending.splice(0))
    })
    return this.#flushing
  }

  #serially(work: () => Promise<void>): Promise<void> {
    const turn = this.#last.then(work)
    this.#last = turn.catch(() => {})
    return turn
  }

  async #refresh(): Promise<void> {
    const found = await this.#archive.find(this.id)
    if (!found) throw this.#lose()
    this.#batch = batchOf(found)
    this.#version = found.version
  }

  #lose(): MeshError {
    this.#lost.abort()
    return new MeshError(Code.UNAVAILABLE, `Another gateway works on batch ${this.id} by now.`)
  }

  async #writeResults(answered: readonly Answered[]): Promise<void> {
    // After a lost connection what was written may be here already: it is counted once.
    const known = await this.#archive.parts(
      this.id,
      answered.map(({ customId }) => customId),
    )
    const fresh = answered.filter((_, at) => known[at] === null)
    const events = fresh.map(({ result }): BatchEvent => ({ kind: 'answered', failed: isFailed(result) }))
    const parts = fresh.map(({ customId, result }): Part => [customId, JSON.stringify(result)])
    if (fresh.length > 0) await this.#write(events, parts, answered)
  }

  async #write(
    events: readonly BatchEvent[],
    parts: readonly Part[],
    answered: readonly Answered[] = [],
  ): Promise<void> {
    const next = events.reduce((batch, event) => advance(batch, event, nowSeconds()), this.#batch)
    const change = changeTo(this.#version, next)
    const verdict = await this.#archive.change(this.id, { ...change, owner: this.#owner, parts })
    if (verdict === 'lost') throw this.#lose()
    if (verdict === 'changed') {
      this.#batch = next
      this.#version += 1
      return
    }
    await this.#refresh()
    return answered.length > 0 ? this.#writeResults(answered) : this.#write(events, parts)
  }
}
