import type { RedisClient } from '../../../shared/redis.ts'
import type { EngineEvent } from '../sequence.ts'
import { isEnd, type Outcome, placeOf } from './journal.ts'
import { packEvent } from './record.ts'

/** Events held while Redis is away, all sequences together: about 10 MB. A sequence that would exceed it stops and goes on later. */
export const HELD_EVENTS_MAX = 65_536
/** How soon a write is tried again that failed though Redis is there. */
const RETRY_MS = 200
/** How long closing waits for what is still to be written. */
const CLOSE_LIMIT_MS = 2_000

/** What one sequence has to have written: events and their places as text, and whether they end it. */
export type Writes = {
  id: string
  attempt: number
  ended: boolean
  entries: readonly { place: string; text: string }[]
}

/** Writes for many sequences at once; resolves with what became of each. */
export type Send = (writes: readonly Writes[]) => Promise<readonly Outcome[]>

type Item = { place: string; text: string; ended: boolean; settle(outcome: Outcome): void }
type Line = { attempt: number; items: Item[] }

/**
 * Writes events in the order of each sequence. What comes while a write is under way goes with the next, so that the cost of a
 * write to disk is shared; what cannot be written is held and tried again.
 */
export class Writer {
  readonly #client: Pick<RedisClient, 'once' | 'off'>
  readonly #onError: (error: Error) => void
  readonly #send: Send
  readonly #lines = new Map<string, Line>()
  #held = 0
  #closed = false
  #flushing: Promise<void> | null = null

  /** `client` tells by `ready` that Redis is back. */
  constructor(client: Pick<RedisClient, 'once' | 'off'>, onError: (error: Error) => void, send: Send) {
    this.#client = client
    this.#onError = onError
    this.#send = send
  }

  write(id: string, attempt: number, events: readonly EngineEvent[]): Promise<Outcome> {
    if (events.length === 0) return Promise.resolve('written')
    const line = this.#lineOf(id, attempt)
    if (this.#held + events.length > HELD_EVENTS_MAX) {
      this.#settle(id, line, line.items.length, 'overflow')
      return Promise.resolve('overflow')
    }
    this.#held += events.length
    return new Promise((resolve) => {
      for (const [at, event] of events.entries()) {
        const item = { place: placeOf(event).join('-'), text: packEvent(event), ended: isEnd(event) }
        line.items.push({ ...item, settle: at === events.length - 1 ? resolve : () => {} })
      }
      this.#flushing ??= this.#flush()
    })
  }

  /** Gives what is held a last chance. */
  async close(): Promise<void> {
    const limit = new Promise((resolve) => setTimeout(resolve, CLOSE_LIMIT_MS).unref())
    await Promise.race([this.#flushing, limit])
    this.#closed = true
    for (const [id, line] of [...this.#lines]) this.#settle(id, line, line.items.length, 'stale')
  }

  #lineOf(id: string, attempt: number): Line {
    const known = this.#lines.get(id)
    if (known?.attempt === attempt) return known
    if (known) this.#settle(id, known, known.items.length, 'stale')
    const line: Line = { attempt, items: [] }
    this.#lines.set(id, line)
    return line
  }

  async #flush(): Promise<void> {
    // The tokens of one step come one after the other and go together.
    await Promise.resolve()
    while (this.#lines.size > 0 && !this.#closed) {
      const sent = [...this.#lines].map(([id, line]) => ({ id, line, count: line.items.length }))
      const writes = sent.map(({ id, line: { attempt, items } }) => {
        const entries = items.map(({ place, text }) => ({ place, text }))
        return { id, attempt, ended: items[items.length - 1].ended, entries }
      })
      try {
        const outcomes = await this.#send(writes)
        for (const [at, { id, line, count }] of sent.entries()) {
          const outcome = outcomes[at]
          // What the store refuses once it refuses for good.
          this.#settle(id, line, outcome === 'written' ? count : line.items.length, outcome)
        }
      } catch (error) {
        // The events stay where they are.
        this.#onError(error as Error)
        await this.#back()
      }
    }
    this.#flushing = null
  }

  #settle(id: string, line: Line, count: number, outcome: Outcome): void {
    const items = line.items.splice(0, count)
    this.#held -= items.length
    if (line.items.length === 0 && this.#lines.get(id) === line) this.#lines.delete(id)
    for (const item of items) item.settle(outcome)
  }

  #back(): Promise<void> {
    return new Promise((resolve) => {
      const go = (): void => {
        clearTimeout(timer)
        this.#client.off('ready', go)
        resolve()
      }
      const timer = setTimeout(go, RETRY_MS)
      this.#client.once('ready', go)
    })
  }
}
