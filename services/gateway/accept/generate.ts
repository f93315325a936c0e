import { Code, MeshError } from '../../../shared/errors.ts'
import type { Intake } from '../intake.ts'
import type { Metrics } from '../metrics.ts'
import type { EngineEvent, TokenLogprob } from '../sequence.ts'
import { type Measures, openChoice, unmeasured } from './choice.ts'
import { type Kept, packKept, requestIdOf, unpackKept } from './kept.ts'
import { promptIds } from './prompt.ts'
import type { Work } from './request.ts'
import type { Served } from './served.ts'

/** Ids to text as they come: holds back unfinished characters and what may become a stop string. */
export type TextStream = {
  /** The text this token makes certain; `stopped` when a stop string is complete, and the text then ends before it. */
  push(id: number): { text: string; stopped: boolean }
  /** What is still held back, once the last token has come. */
  end(): string
}

/** Opens the text that follows `prompt`. */
export type OpenTextStream = (options: {
  prompt: readonly number[]
  stop: readonly string[]
  minTokens: number
}) => TextStream

/** One generated token as a client is told of it. */
export type Piece = {
  kind: 'token'
  /** Index into Work.requests. */
  choice: number
  /** Position of the token in the choice's output, from 0. */
  index: number
  token: number
  /** Text that became certain; empty for the id that ended the choice, and wherever text is held back. */
  text: string
  logprob: TokenLogprob | null
  finish: 'stop' | 'length' | null
  /** On the last token of a choice, when asked for: SHA-256 over the digests of all its positions, in hex. */
  logitsSha256: string | null
}

/** Log-probabilities of a choice's prompt, null for its first token; comes before the choice's tokens. */
export type PromptPiece = { kind: 'prompt'; choice: number; logprobs: readonly (TokenLogprob | null)[] }

export type Usage = { promptTokens: number; completionTokens: number; cachedTokens: number }

export type Generation = {
  /** What is generated: where the request joined another, that one. */
  kept: Kept
  /** Ends when every choice has; throws what made one fail, and the others are then cancelled. To be iterated once. */
  pieces: AsyncIterable<Piece | PromptPiece>
  /** Leaves the request as if the client had; what the end of pieces does by itself. */
  close(): void
  /** So far; final once pieces has ended. */
  usage(): Usage
}

export type GenerateParts = {
  served: Served
  intake: Intake
  openTextStream: OpenTextStream
  metrics: Metrics
}

const failure = (code: number, message: string): MeshError =>
  new MeshError(Object.values(Code).find((known) => known === code) ?? Code.INTERNAL, message)

type Choice = ReturnType<typeof openChoice>

const usageOf = (work: Work, choices: readonly Choice[]): Usage => {
  const usage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 }
  for (const [at, { state }] of choices.entries()) {
    usage.completionTokens += state.tokens
    // Choices of one prompt share it: it counts once.
    if (work.requests[at].choice > 0) continue
    usage.promptTokens += promptIds(work.requests[at]).length
    usage.cachedTokens += state.cached
  }
  return usage
}

/** Who sends a request, and the key under which sending it again joins it. */
export type Sender = { tenant: string; key: { name: string; body: string } | null }

/**
 * Accepts a request. Resolves once it is stored; rejects with RESOURCE_EXHAUSTED, none of its sequences left behind, where too much
 * waits, and with UNAVAILABLE where the queue is away. `attached`: this process reads it.
 */
export const submit = async (
  { intake }: Pick<GenerateParts, 'intake'>,
  work: Work,
  { tenant, key }: Sender,
  attached: boolean,
): Promise<{ kept: Kept; joined: boolean }> => {
  const now = Date.now()
  const deadlineAt = work.deadlineMs === null ? null : now + work.deadlineMs
  const kept = { work, created: Math.floor(now / 1000), deadlineAt, tenant }
  const { requests, priority } = work
  const order = {
    id: requestIdOf(work.id),
    record: packKept(kept),
    requests,
    tenant,
    priority,
    deadlineAt,
    key,
    attached,
  }
  const { joined } = await intake.submit(order)
  if (joined === null) return { kept, joined: false }
  const first = unpackKept(joined)
  await intake.requeue({ ...first.work, deadlineAt: first.deadlineAt })
  if (attached) intake.attach(requestIdOf(first.work.id))
  return { kept: first, joined: true }
}

/**
 * Refuses one more request of the tenant where the queue is known to be full, before it has been read: a flood must cost those
 * admitted nothing. @throws MeshError RESOURCE_EXHAUSTED.
 */
export const checkRoom = ({ intake, metrics }: Pick<GenerateParts, 'intake' | 'metrics'>, tenant: string): void => {
  const error = intake.turnAway(tenant)
  if (error === null) return
  countRefused(metrics)
  throw error
}

const countRefused = (metrics: Metrics): void => {
  metrics.accepted()
  metrics.finished('refused', 0, false)
}

/** Accepts a request, as `submit` does, and follows it; one that joins another is not counted again. */
export const generate = async (
  parts: GenerateParts,
  work: Work,
  sender: Sender,
  signal: AbortSignal,
): Promise<Generation> => {
  const { metrics } = parts
  const { kept, joined } = await submit(parts, work, sender, true).catch((error) => {
    for (const _ of work.requests) countRefused(metrics)
    throw error
  })
  return new Reading(parts, kept, joined ? unmeasured : metrics, signal)
}

/** Follows an accepted request from its first token on, whoever accepted it. @throws MeshError NOT_FOUND. */
export const rejoin = async (
  parts: GenerateParts,
  id: string,
  tenant: string,
  signal: AbortSignal,
): Promise<Generation> => {
  const request = requestIdOf(id)
  const record = await parts.intake.find(request)
  const kept = record === null ? null : unpackKept(record)
  if (!kept || kept.tenant !== tenant)
    throw new MeshError(Code.NOT_FOUND, `There is no request ${id} here: it ended some time ago, or never was.`, {
      reason: 'request_not_found',
    })
  parts.intake.attach(request)
  return new Reading(parts, kept, unmeasured, signal)
}

/**
 * Turns the events of an attached request into pieces. `signal` ends the reading: pieces then ends early, and what has not finished
 * is cancelled once nobody reads it for the request's grace. Pieces that nobody has read yet wait in memory: at most one per token.
 */
class Reading implements Generation {
  readonly kept: Kept
  readonly pieces: AsyncIterable<Piece | PromptPiece>
  readonly #intake: Intake
  readonly #choices: readonly Choice[]
  readonly #ready: (Piece | PromptPiece)[] = []
  readonly #unfollow: readonly (() => void)[]
  readonly #signal: AbortSignal
  readonly #late: NodeJS.Timeout | undefined
  #failed: MeshError | null = null
  #left = false
  /** The reading ended before a choice did. */
  #cut = false
  #wake = (): void => {}

  constructor(parts: GenerateParts, kept: Kept, measures: Measures, signal: AbortSignal) {
    const { requests } = kept.work
    this.kept = kept
    this.#intake = parts.intake
    this.#signal = signal
    this.#choices = requests.map((_, choice) => openChoice(parts, measures, kept.work, choice))
    this.#unfollow = requests.map((request, at) =>
      parts.intake.follow(request.id, (event) => {
        try {
          this.#hear(at, event)
        } catch (error) {
          this.#fail(MeshError.from(error))
        }
      }),
    )
    signal.addEventListener('abort', this.#onAbort, { once: true })
    if (signal.aborted) this.#onAbort()
    const { deadlineAt } = kept
    if (deadlineAt !== null) this.#late = setTimeout(() => this.#fail(deadlinePassed()), deadlineAt - Date.now())
    this.pieces = this.#read()
  }

  usage(): Usage {
    return usageOf(this.kept.work, this.#choices)
  }

  close(): void {
    if (this.#left) return
    this.#left = true
    clearTimeout(this.#late)
    this.#signal.removeEventListener('abort', this.#onAbort)
    this.#end('cancelled')
    for (const unfollow of this.#unfollow) unfollow()
    const { work } = this.kept
    // What was heard to its end may still be on its way to the store, and is nobody's to end.
    this.#intake.leave(requestIdOf(work.id), this.#cut ? work.graceSeconds : null)
  }

  async *#read(): AsyncGenerator<Piece | PromptPiece> {
    try {
      for (;;) {
        while (this.#ready.length > 0) yield* this.#ready.splice(0)
        if (this.#failed) throw this.#failed
        if (!this.#choices.some((choice) => choice.state.open)) return
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      }
    } finally {
      this.close()
    }
  }

  #hear(at: number, event: EngineEvent): void {
    const choice = this.#choices[at]
    if (!choice.state.open) return
    if (event.kind === 'started') choice.start(event.cachedTokens)
    else if (event.kind === 'failed') this.#fail(failure(event.code, event.message))
    else {
      const piece = event.kind === 'prompt' ? choice.prompt(event) : choice.token(event)
      if (piece) this.#ready.push(piece)
      // A stop string ends a choice that the engine would continue.
      if (piece?.kind === 'token' && piece.finish && event.kind === 'token' && !event.finish)
        void this.#intake.end([event.id], stopped)
    }
    this.#wake()
  }

  #fail(error: MeshError): void {
    this.#failed ??= error
    void this.#intake.end(this.#end('error'), error)
  }

  /** Ends the reading of every choice that has not finished, and returns their ids. */
  #end(reason: string): string[] {
    const { requests } = this.kept.work
    const open = requests.filter((_, at) => this.#choices[at].close(reason)).map(({ id }) => id)
    this.#cut ||= open.length > 0
    this.#wake()
    return open
  }

  readonly #onAbort = (): void => void this.#end('cancelled')
}

const stopped = new MeshError(Code.CANCELLED, 'The text reached a stop string.')

const deadlinePassed = (): MeshError =>
  new MeshError(Code.DEADLINE_EXCEEDED, 'The deadline of this request passed before it was finished.')
