import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import type { EngineEvent } from '../sequence.ts'

/** Longest advice to come back; an estimate further ahead means nothing. */
const RETRY_AFTER_SECONDS_MAX = 600

/** One sequence that asks to be accepted; its cost is counted in tokens, prompt and output. */
export type Entry = { id: string; cost: number }

/** An API request on its way in: all of its sequences are accepted, or none. */
export type Submission = {
  /** Of the API request, not of its sequences. */
  id: string
  /** What whoever follows the request must know, as text; kept as long as its events. */
  record: string
  entries: readonly Entry[]
  /** Whose share of the queue it takes. */
  tenant: string
  /** 0 to PRIORITY_MAX, small first. */
  priority: number
  /** Ms the caller will wait; null: for ever. */
  deadlineMs: number | null
  /** A second submission with the same key and the same body joins the first. */
  key: { name: string; body: string } | null
  /** Somebody reads it here, and leave() ends it once nobody does. Otherwise it goes on to its end, read or not. */
  attached: boolean
}

export type Accepted = { joined: false; ranks: number[] } | { joined: true; record: string }

/** What an attempt at generating a sequence begins with. */
export type Attempt = {
  number: number
  /** Attempts in a row, this one included, before which no new token was written. */
  fruitless: number
  /** Output that is written already. */
  tokens: readonly number[]
}

/** written; ended: somebody ended the sequence; stale: another attempt has begun; overflow: the store is away and the buffer full. */
export type Outcome = 'written' | 'ended' | 'stale' | 'overflow'

/**
 * What is known of every accepted request: its record, the events of its sequences, who waits, who reads. Written by whichever
 * gateway runs a sequence, read by any.
 */
export type Journal = {
  /**
   * @throws MeshError RESOURCE_EXHAUSTED where too many wait or the wait would outlast the deadline (retryAfterSeconds tells when to
   * come back), INVALID_ARGUMENT for a key that came with another body, UNAVAILABLE where the store is away.
   */
  accept(submission: Submission): Promise<Accepted>
  /**
   * What the next request of the tenant is refused with, as far as this process knows without asking: so that a flood is refused
   * before it costs anything. null: accept decides. To be called once for each request.
   */
  turnAway(tenant: string): MeshError | null
  /** The record of a request; null once it is forgotten. */
  find(request: string): Promise<string | null>
  /** Takes a sequence out of the waiting and counts an attempt; null when it has ended. Earlier attempts are stale from here on. */
  begin(id: string): Promise<Attempt | null>
  /** An attempt ended, and its gateway lives: the sequence is not to blame, and one fruitless attempt less counts. */
  release(id: string): Promise<void>
  /** In order; resolves when they are kept. Followers in this process hear of them at once. Never rejects. */
  append(id: string, attempt: number, events: readonly EngineEvent[]): Promise<Outcome>
  /** This process writes no more for the attempt. */
  stop(id: string): void
  /** Ends sequences wherever they are: their followers hear `failed`. Never rejects. */
  end(ids: readonly string[], error: MeshError): Promise<void>
  /** Somebody in this process reads the request. */
  attach(request: string): void
  /** One reader less. With the last one, the sequences are ended after `graceSeconds` in which no other came; never with null. */
  leave(request: string, graceSeconds: number | null): void
  /** Every event of a sequence, those written already first, each once and in order, until the returned function is called. */
  follow(id: string, onEvent: (event: EngineEvent) => void): () => void
  /** Called with the id of each sequence that is ended by others. */
  onEnded(listener: (id: string) => void): void
  /** What this gateway generates while it is busy, prompts included. */
  reportSpeed(tokensPerSecond: number): void
  waiting(): Promise<number>
  /** The sequences that wait for a gateway such as this one. */
  waitingIds(): Promise<readonly string[]>
  close(): Promise<void>
}

/**
 * Place of an event among those of its sequence, an id of a Redis stream: 0-1 started, 0-(1+n) the prompt's log-probabilities up
 * to its n-th token, (n+1)-0 token n of the output, and the largest there is for a failure, after which nothing fits.
 */
export type Place = readonly [number, number]
/** Largest sequence number of a stream that is an exact double. */
const LAST = 2 ** 52

export const placeOf = (event: EngineEvent): Place => {
  if (event.kind === 'started') return [0, 1]
  if (event.kind === 'prompt') return [0, 1 + event.begin + event.logprobs.length]
  return event.kind === 'token' ? [event.index + 1, 0] : [LAST, 0]
}

export const isEnd = (event: EngineEvent): boolean =>
  event.kind === 'failed' || (event.kind === 'token' && event.finish !== null)

/** passed on; known: it came before; gap: tokens before it are missing. */
type Seen = 'passed' | 'known' | 'gap'

/** One reader of one sequence: takes events from wherever they come, twice or late, and passes each on once, in order. */
export class Follower {
  readonly id: string
  readonly #onEvent: (event: EngineEvent) => void
  #at: Place = [0, 0]
  /** Its events must be read from the store: those of this process, if any, do not follow on what it has. */
  behind = true

  constructor(id: string, onEvent: (event: EngineEvent) => void) {
    this.id = id
    this.#onEvent = onEvent
  }

  /** Of the last event passed on. */
  get at(): Place {
    return this.#at
  }

  take(event: EngineEvent): Seen {
    const [major, minor] = placeOf(event)
    const [last, lastMinor] = this.#at
    if (major < last || (major === last && minor <= lastMinor)) return 'known'
    if (event.kind === 'token' && major > last + 1) return 'gap'
    this.#at = [major, minor]
    this.#onEvent(event)
    return 'passed'
  }
}

/** All readers in this process, by sequence. */
export class Followers {
  readonly #followers = new Map<string, Set<Follower>>()

  add(follower: Follower): void {
    const of = this.#followers.get(follower.id) ?? new Set()
    this.#followers.set(follower.id, of.add(follower))
  }

  remove(follower: Follower): void {
    const of = this.#followers.get(follower.id)
    of?.delete(follower)
    if (of?.size === 0) this.#followers.delete(follower.id)
  }

  of(id: string): readonly Follower[] {
    return [...(this.#followers.get(id) ?? [])]
  }

  /** Sequences with a reader whose events must be read from the store, and from where. */
  behind(): Map<string, Place> {
    const from = new Map<string, Place>()
    for (const [id, of] of this.#followers)
      for (const { behind, at } of of) {
        const least = from.get(id)
        if (behind && (!least || at[0] < least[0] || (at[0] === least[0] && at[1] < least[1]))) from.set(id, at)
      }
    return from
  }
}

export const queueFull = (waiting: number, limit: number): MeshError =>
  new MeshError(
    Code.RESOURCE_EXHAUSTED,
    `${waiting} requests are already waiting and --queue-limit is ${limit}: try again in a moment.`,
    { reason: 'rate_limit_exceeded' },
  )

export const shareFull = (own: number, limit: number): MeshError =>
  new MeshError(
    Code.RESOURCE_EXHAUSTED,
    `${own} requests of this key are already waiting, its share of --queue-limit ${limit}: try again in a moment.`,
    { reason: 'rate_limit_exceeded' },
  )

export const tooLate = (waitSeconds: number, deadlineMs: number): MeshError => {
  const seconds = Math.ceil(waitSeconds)
  return new MeshError(
    Code.RESOURCE_EXHAUSTED,
    `This request would wait about ${seconds} s and its deadline is ${deadlineMs} ms: send it later, or with a later deadline.`,
    { reason: 'rate_limit_exceeded', retryAfterSeconds: Math.min(RETRY_AFTER_SECONDS_MAX, Math.max(1, seconds)) },
  )
}

export const otherBody = (): MeshError =>
  invalid('This Idempotency-Key was used with another body: send a new key with a new request.', 'Idempotency-Key')
