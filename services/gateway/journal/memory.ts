import { Code, MeshError } from '../../../shared/errors.ts'
import { begin as beginShare, enter, hasPlace, openShares, PRIORITY_MAX, rank } from '../fair.ts'
import type { EngineEvent } from '../sequence.ts'
import {
  type Accepted,
  type Attempt,
  Follower,
  Followers,
  isEnd,
  type Journal,
  type Outcome,
  otherBody,
  queueFull,
  type Submission,
  shareFull,
  tooLate,
} from './journal.ts'
import { openReaders } from './readers.ts'

/** Ended requests are forgotten, oldest first, while more events than this are kept of them. */
const ENDED_EVENTS_MAX = 65_536

type Kept = {
  submission: Submission
  /** Sequences that have not ended. */
  open: number
  events: number
}

type Line = {
  request: string
  events: EngineEvent[]
  attempt: number
  fruitless: number
  /** Tokens when the last attempt began. */
  mark: number
  tokens: number[]
  ended: boolean
}

const newLine = (request: string): Line => ({
  request,
  events: [],
  attempt: 0,
  fruitless: 0,
  mark: -1,
  tokens: [],
  ended: false,
})

/** The journal of one process: gone with it. Requests stay for `keepMs` after their end, `limit` of their sequences may wait. */
export class MemoryJournal implements Journal {
  readonly #limit: number
  readonly #keepMs: number
  readonly #requests = new Map<string, Kept>()
  readonly #keys = new Map<string, string>()
  readonly #lines = new Map<string, Line>()
  readonly #waiting = new Map<string, { cost: number; start: number; priority: number; tenant: string }>()
  readonly #shares = Array.from({ length: PRIORITY_MAX + 1 }, openShares)
  readonly #followers = new Followers()
  /** Of ended requests, oldest first. */
  readonly #forgetting = new Map<string, NodeJS.Timeout>()
  readonly #readers = openReaders({
    first: () => {},
    none: () => {},
    abandoned: (request) => this.#abandon(request),
  })
  #endedEvents = 0
  #heard = (_id: string): void => {}
  #speed: number | null = null

  constructor(limit: number, keepMs: number) {
    this.#limit = limit
    this.#keepMs = keepMs
  }

  async accept(submission: Submission): Promise<Accepted> {
    const { id, key, entries, attached } = submission
    const first = key && this.#requests.get(this.#keys.get(key.name) ?? '')?.submission
    if (first) {
      if (first.key?.body !== key.body) throw otherBody()
      return { joined: true, record: first.record }
    }
    this.#admit(submission)
    this.#requests.set(id, { submission, open: entries.length, events: 0 })
    if (key) this.#keys.set(key.name, id)
    if (attached) this.#readers.attach(id)
    return { joined: false, ranks: this.#place(submission) }
  }

  turnAway(tenant: string): MeshError | null {
    return this.#refusal(tenant, 1)
  }

  #refusal(tenant: string, more: number): MeshError | null {
    const waiting = this.#waiting.size
    if (waiting + more > this.#limit) return queueFull(waiting, this.#limit)
    let own = 0
    for (const other of this.#waiting.values()) if (other.tenant === tenant) own++
    return hasPlace(this.#limit, waiting, own, more) ? null : shareFull(own, this.#limit)
  }

  #admit({ entries, tenant, deadlineMs }: Submission): void {
    const refusal = this.#refusal(tenant, entries.length)
    if (refusal) throw refusal
    if (deadlineMs === null || this.#speed === null) return
    const backlog = [...this.#waiting.values()].reduce((sum, { cost }) => sum + cost, 0)
    if ((backlog / this.#speed) * 1000 > deadlineMs) throw tooLate(backlog / this.#speed, deadlineMs)
  }

  #place({ id, entries, tenant, priority }: Submission): number[] {
    let idle = ![...this.#waiting.values()].some((other) => other.priority === priority)
    return entries.map((entry) => {
      const start = enter(this.#shares[priority], tenant, entry.cost, idle)
      idle = false
      this.#waiting.set(entry.id, { cost: entry.cost, start, priority, tenant })
      this.#lines.set(entry.id, newLine(id))
      return rank(priority, start)
    })
  }

  async find(request: string): Promise<string | null> {
    return this.#requests.get(request)?.submission.record ?? null
  }

  async begin(id: string): Promise<Attempt | null> {
    const line = this.#lines.get(id)
    const waited = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (!line || line.ended) return null
    if (waited) beginShare(this.#shares[waited.priority], waited.start)
    line.attempt++
    line.fruitless = line.tokens.length === line.mark ? line.fruitless + 1 : 1
    line.mark = line.tokens.length
    return { number: line.attempt, fruitless: line.fruitless, tokens: [...line.tokens] }
  }

  async release(id: string): Promise<void> {
    const line = this.#lines.get(id)
    if (line && line.fruitless > 0) line.fruitless--
  }

  async append(id: string, attempt: number, events: readonly EngineEvent[]): Promise<Outcome> {
    const line = this.#lines.get(id)
    if (!line || line.ended) return 'ended'
    if (line.attempt !== attempt) return 'stale'
    for (const event of events) this.#write(id, line, event)
    return 'written'
  }

  stop(): void {}

  async end(ids: readonly string[], { code, message }: MeshError): Promise<void> {
    for (const id of ids) {
      const line = this.#lines.get(id)
      if (!line || line.ended) continue
      this.#waiting.delete(id)
      this.#write(id, line, { kind: 'failed', id, code, message })
      this.#heard(id)
    }
  }

  attach(request: string): void {
    this.#readers.attach(request)
  }

  leave(request: string, graceSeconds: number | null): void {
    this.#readers.leave(request, graceSeconds)
  }

  follow(id: string, onEvent: (event: EngineEvent) => void): () => void {
    const follower = new Follower(id, onEvent)
    this.#followers.add(follower)
    for (const event of [...(this.#lines.get(id)?.events ?? [])]) follower.take(event)
    return () => this.#followers.remove(follower)
  }

  onEnded(listener: (id: string) => void): void {
    this.#heard = listener
  }

  reportSpeed(tokensPerSecond: number): void {
    this.#speed = tokensPerSecond
  }

  async waiting(): Promise<number> {
    return this.#waiting.size
  }

  async waitingIds(): Promise<string[]> {
    return [...this.#waiting.keys()]
  }

  async close(): Promise<void> {
    this.#readers.close()
    for (const request of [...this.#forgetting.keys()]) this.#forget(request)
  }

  #write(id: string, line: Line, event: EngineEvent): void {
    line.events.push(event)
    if (event.kind === 'token') line.tokens.push(event.token)
    const kept = this.#requests.get(line.request)
    if (kept) kept.events++
    if (isEnd(event)) this.#close(line)
    for (const follower of this.#followers.of(id)) follower.take(event)
  }

  #close(line: Line): void {
    line.ended = true
    const kept = this.#requests.get(line.request)
    if (!kept || --kept.open > 0) return
    this.#endedEvents += kept.events
    this.#forgetting.set(line.request, setTimeout(() => this.#forget(line.request), this.#keepMs).unref())
    for (const oldest of this.#forgetting.keys()) {
      if (this.#endedEvents <= ENDED_EVENTS_MAX) break
      this.#forget(oldest)
    }
  }

  #forget(request: string): void {
    const kept = this.#requests.get(request)
    if (!kept) return
    clearTimeout(this.#forgetting.get(request))
    this.#forgetting.delete(request)
    this.#endedEvents -= kept.events
    this.#requests.delete(request)
    for (const { id } of kept.submission.entries) this.#lines.delete(id)
    if (kept.submission.key) this.#keys.delete(kept.submission.key.name)
  }

  #abandon(request: string): void {
    const submission = this.#requests.get(request)?.submission
    if (!submission?.attached) return
    const left = new MeshError(Code.CANCELLED, 'Nobody was reading this request any more.')
    const ids = submission.entries.map(({ id }) => id)
    void this.end(ids, left)
  }
}
