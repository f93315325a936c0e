import { randomUUID } from 'node:crypto'
import { Code, type MeshError } from '../../../shared/errors.ts'
import { type RedisClient, redisError, runScript } from '../../../shared/redis.ts'
import { Crowd } from '../crowd.ts'
import { PRIORITY_MAX, rank } from '../fair.ts'
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
  type Submission,
  tooLate,
} from './journal.ts'
import { openReaders } from './readers.ts'
import { packEvent, unpackEvent } from './record.ts'
import * as scripts from './scripts.ts'
import { Writer } from './writer.ts'

/** Entries read at a time. */
const READ_COUNT = 1_000
/** A reader that has nothing new asks again after this long. */
const READ_BLOCK_MS = 5_000
/** How soon a read is tried again that failed though Redis is there. */
const READ_RETRY_MS = 200
/** The key that wakes a gateway's reader outlives the gateway by this. */
const WAKE_KEEP_MS = 60_000

export type StreamOptions = {
  /** Fails at once while Redis is away. */
  prompt: RedisClient
  /** Waits until it is back. */
  patient: RedisClient
  /** As patient, and blocked most of the time. */
  reading: RedisClient
  /** Before every key; of one model. */
  prefix: string
  /** Name of the queue in which what is accepted here waits. */
  queue: string
  limit: number
  keepMs: number
  onError(error: Error): void
}

type Reply = [key: string, entries: [id: string, fields: string[]][]][] | null

/** The journal that all gateways of a model share, in Redis. */
export class StreamJournal implements Journal {
  readonly #options: StreamOptions
  readonly #gateway = randomUUID()
  readonly #followers = new Followers()
  readonly #writer: Writer
  /** Attempts under way in this process. */
  readonly #writing = new Map<string, number>()
  readonly #crowd: Crowd
  readonly turnAway = (tenant: string): MeshError | null => this.#crowd.turnAway(tenant)
  readonly attach = (request: string): void => this.#readers.attach(request)
  /** Requests whose first reader the accepting script has noted. */
  readonly #noted = new Set<string>()
  readonly #readers = openReaders({
    first: (request) => this.#noted.delete(request) || this.#quietly(scripts.attach, [request, this.#gateway]),
    none: (request) => this.#quietly(scripts.detach, [request, this.#gateway]),
    abandoned: (request) => this.#abandon(request),
  })
  #heard = (_id: string): void => {}
  #waking = false
  #closed = false
  readonly #read: Promise<void>

  constructor(options: StreamOptions) {
    this.#options = options
    this.#crowd = new Crowd(options.limit)
    const { prompt, prefix, keepMs, onError } = options
    this.#writer = new Writer(prompt, onError, async (writes) => {
      const args = writes.flatMap(({ id, attempt, ended, entries }) => [
        ...[id, attempt, ended ? 1 : 0, entries.length],
        ...entries.flatMap(({ place, text }) => [place, text]),
      ])
      return (await runScript(prompt, scripts.append, [prefix, keepMs, ...args])) as Outcome[]
    })
    options.prompt.on('ready', this.#wake)
    this.#read = this.#readAll()
  }

  async accept(submission: Submission): Promise<Accepted> {
    const { id, record, entries, tenant, priority, deadlineMs, key, attached } = submission
    const gateway = attached ? this.#gateway : ''
    const queue = [this.#options.limit, tenant, priority, deadlineMs ?? '', key?.name ?? '', key?.body ?? '']
    const sequences = entries.flatMap((entry) => [entry.id, entry.cost])
    const args = [id, record, gateway, ...queue, Date.now(), PRIORITY_MAX, this.#options.queue, ...sequences]
    const [verdict, ...rest] = (await this.#ask(scripts.accept, args)) as [string, ...(string | number)[]]
    if (verdict === 'other') throw otherBody()
    if (verdict === 'full' || verdict === 'crowded')
      throw this.#crowd.refuse(verdict, Number(rest[0]), tenant, entries.length)
    if (verdict === 'late') throw tooLate(Number(rest[0]), deadlineMs ?? 0)
    if (verdict === 'joined') return { joined: true, record: String(rest[0]) }
    this.#crowd.admitted()
    if (attached) {
      this.#noted.add(id)
      this.#readers.attach(id)
    }
    return { joined: false, ranks: rest.map((start) => rank(priority, Number(start))) }
  }

  async find(request: string): Promise<string | null> {
    try {
      return await this.#options.prompt.hget(this.#key('record', request), 'json')
    } catch (error) {
      throw redisError(error)
    }
  }

  async begin(id: string): Promise<Attempt | null> {
    const { patient, prefix } = this.#options
    const begun = (await runScript(patient, scripts.begin, [prefix, id])) as [number, number] | null
    this.#crowd.freed(1)
    if (!begun) return null
    const [number, fruitless] = begun
    const entries = await patient.xrange(this.#key('stream', id), '1-0', '+')
    const events = entries.map(([place, [, text]]) => unpackEvent(text, id, Number.parseInt(place, 10) - 1))
    this.#writing.set(id, number)
    return { number, fruitless, tokens: events.flatMap((event) => (event.kind === 'token' ? [event.token] : [])) }
  }

  async release(id: string): Promise<void> {
    await this.#quietly(scripts.release, [id])
  }

  /** Readers here hear of what this process generates before Redis does; of a failure only once it is certain to be the end. */
  async append(id: string, attempt: number, events: readonly EngineEvent[]): Promise<Outcome> {
    for (const event of events) {
      if (event.kind === 'failed') continue
      for (const follower of this.#followers.of(id)) {
        const seen = follower.take(event)
        if (seen === 'passed') follower.behind = false
        if (seen === 'gap') this.#lag(follower)
      }
    }
    const outcome = await this.#writer.write(id, attempt, events)
    if (outcome !== 'written' || events.some(isEnd)) this.#stopWriting(id, attempt)
    return outcome
  }

  stop(id: string): void {
    this.#writing.delete(id)
    for (const follower of this.#followers.of(id)) this.#lag(follower)
  }

  async end(ids: readonly string[], { code, message }: MeshError): Promise<void> {
    const elsewhere: string[] = []
    for (const id of ids) {
      const attempt = this.#writing.get(id)
      if (attempt === undefined) elsewhere.push(id)
      else {
        // Behind the tokens that are still on their way.
        const written = this.append(id, attempt, [{ kind: 'failed', id, code, message }])
        this.#heard(id)
        await written
      }
    }
    if (elsewhere.length === 0) return
    const event = packEvent({ kind: 'failed', id: '', code, message })
    await this.#quietly(scripts.end, [this.#options.keepMs, event, ...elsewhere])
    this.#crowd.freed(elsewhere.length)
  }

  leave(request: string, graceSeconds: number | null): void {
    this.#readers.leave(request, graceSeconds)
  }

  follow(id: string, onEvent: (event: EngineEvent) => void): () => void {
    const follower = new Follower(id, onEvent)
    this.#followers.add(follower)
    this.#wake()
    return () => this.#followers.remove(follower)
  }

  onEnded(listener: (id: string) => void): void {
    this.#heard = listener
  }

  reportSpeed(tokensPerSecond: number): void {
    const report = `${tokensPerSecond.toFixed(3)} ${Date.now()}`
    // It is told again in a second.
    this.#options.prompt.hset(this.#key('speed'), this.#gateway, report).catch(() => {})
  }

  async waiting(): Promise<number> {
    const lines = Array.from({ length: PRIORITY_MAX + 1 }, (_, priority) => this.#key('waiting', String(priority)))
    try {
      const counts = await Promise.all(lines.map((key) => this.#options.prompt.hlen(key)))
      return counts.reduce((sum, count) => sum + count, 0)
    } catch (error) {
      throw redisError(error)
    }
  }

  async waitingIds(): Promise<string[]> {
    return (await this.#ask(scripts.waitingIn, [this.#options.queue, PRIORITY_MAX])) as string[]
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#readers.close()
    this.#options.prompt.off('ready', this.#wake)
    await this.#writer.close()
    // The blocked read ends with its connection.
    this.#options.reading.disconnect()
    await this.#read
  }

  #key(kind: string, of?: string): string {
    return `${this.#options.prefix}${kind}${of === undefined ? '' : `:${of}`}`
  }

  async #ask(script: string, args: readonly (string | number)[]): Promise<unknown> {
    try {
      return await runScript(this.#options.prompt, script, [this.#options.prefix, ...args])
    } catch (error) {
      throw redisError(error)
    }
  }

  /** Waits for Redis where it is away; fails only when this gateway closes meanwhile. */
  async #quietly(script: string, args: readonly (string | number)[]): Promise<void> {
    await runScript(this.#options.patient, script, [this.#options.prefix, ...args]).catch(() => {})
  }

  #abandon(request: string): void {
    const code = Code.CANCELLED
    const event = packEvent({ kind: 'failed', id: '', code, message: 'Nobody was reading this request any more.' })
    void this.#quietly(scripts.abandon, [request, this.#options.keepMs, event])
  }

  #lag(follower: Follower): void {
    follower.behind = true
    this.#wake()
  }

  #stopWriting(id: string, attempt: number): void {
    if (this.#writing.get(id) === attempt) this.stop(id)
  }

  /** Has the blocked read begin again, with the readers there are now. */
  readonly #wake = (): void => {
    if (this.#waking || this.#closed) return
    this.#waking = true
    setImmediate(() => {
      this.#waking = false
      const key = this.#key('wake', this.#gateway)
      // Where this fails Redis is away, and its return wakes again.
      const woken = this.#options.prompt.multi().xadd(key, 'MAXLEN', 1, '*', 'w', '1').pexpire(key, WAKE_KEEP_MS).exec()
      woken.catch(() => {})
    })
  }

  async #readAll(): Promise<void> {
    const { reading } = this.#options
    const control = this.#key('control')
    const wake = this.#key('wake', this.#gateway)
    const at = new Map([[wake, '0-0']])
    while (!this.#closed) {
      try {
        if (!at.has(control)) at.set(control, (await reading.xrevrange(control, '+', '-', 'COUNT', 1))[0]?.[0] ?? '0-0')
        const behind = this.#followers.behind()
        const streams = [...behind].map(([id, place]) => [this.#key('stream', id), place.join('-')])
        const from = [...at, ...streams]
        const [keys, ids] = [from.map(([key]) => key), from.map(([, id]) => id)]
        const reply = await reading.xread('COUNT', READ_COUNT, 'BLOCK', READ_BLOCK_MS, 'STREAMS', ...keys, ...ids)
        for (const [key, entries] of (reply as Reply) ?? []) this.#take(key, entries, at)
      } catch (error) {
        // The connection was closed; a lost one waits for its return instead.
        if (this.#closed) return
        await new Promise((resolve) => setTimeout(resolve, READ_RETRY_MS))
        this.#options.onError(error as Error)
      }
    }
  }

  #take(key: string, entries: [id: string, fields: string[]][], at: Map<string, string>): void {
    const last = entries.at(-1)?.[0]
    if (at.has(key) && last) {
      at.set(key, last)
      // Keys other than control hold nothing of interest.
      if (key === this.#key('control')) for (const [, [, id]] of entries) this.#heard(id)
      return
    }
    const id = key.slice(this.#key('stream', '').length)
    for (const [place, [, text]] of entries) {
      const event = unpackEvent(text, id, Number.parseInt(place, 10) - 1)
      for (const follower of this.#followers.of(id)) follower.take(event)
    }
  }
}
