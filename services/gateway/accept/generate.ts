import { createHash } from 'node:crypto'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { Metrics } from '../metrics.ts'
import type { Intake } from '../queue.ts'
import type { EngineEvent, GenerationRequest, TokenLogprob } from '../sequence.ts'
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
  /** Ends when every choice has; throws what made one fail, and the others are then cancelled. To be iterated once. */
  pieces: AsyncIterable<Piece | PromptPiece>
  /** So far; final once pieces has ended. */
  usage(): Usage
}

export type GenerateParts = {
  served: Served
  intake: Intake
  openTextStream: OpenTextStream
  metrics: Metrics
}

/** A choice on its way: turns engine events into pieces and times them. */
const follow = (parts: GenerateParts, work: Work, choice: number, request: GenerationRequest) => {
  const { metrics } = parts
  const text =
    parts.served.tokenizer &&
    parts.openTextStream({ prompt: request.prompt, stop: work.stop, minTokens: request.minTokens })
  const digest = request.digest ? createHash('sha256') : null
  const acceptedAt = performance.now()
  let lastAt = acceptedAt
  const state = { open: true, started: false, tokens: 0, cached: 0 }

  metrics.accepted()
  /** False when the choice had ended before. */
  const close = (reason: string): boolean => {
    if (!state.open) return false
    state.open = false
    metrics.finished(reason, (performance.now() - acceptedAt) / 1000, state.started)
    return true
  }

  const start = (cached: number): void => {
    // A sequence that was preempted starts again; it is counted once.
    if (state.started) return
    state.started = true
    state.cached = cached
    metrics.started(cached, request.prompt.length)
  }

  const time = (): void => {
    const now = performance.now()
    if (state.tokens === 0) metrics.firstToken((now - acceptedAt) / 1000)
    else metrics.interToken((now - lastAt) / 1000)
    lastAt = now
    metrics.token()
  }

  const token = (event: EngineEvent & { kind: 'token' }): Piece => {
    start(0)
    time()
    state.tokens += 1
    if (event.digest) digest?.update(event.digest)
    // An id that ends the sequence is no text.
    const pushed = text && event.finish !== 'stop' ? text.push(event.token) : { text: '', stopped: false }
    const finish = pushed.stopped ? 'stop' : event.finish
    if (finish === 'cancelled')
      throw new MeshError(Code.UNAVAILABLE, 'The gateway stopped before this request was finished: send it again.')
    const rest = finish && text && !pushed.stopped ? text.end() : ''
    if (finish) close(finish)
    return {
      kind: 'token',
      choice,
      index: event.index,
      token: event.token,
      text: pushed.text + rest,
      logprob: event.logprob,
      finish,
      logitsSha256: finish && digest ? digest.digest('hex') : null,
    }
  }

  return { state, start, token, close }
}

const failure = (code: number, message: string): MeshError =>
  new MeshError(Object.values(Code).find((known) => known === code) ?? Code.INTERNAL, message)

type Followed = ReturnType<typeof follow>

const usageOf = (work: Work, choices: readonly Followed[]): Usage => {
  const usage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 }
  for (const [at, { state }] of choices.entries()) {
    usage.completionTokens += state.tokens
    // Choices of one prompt share it: it counts once.
    if (work.requests[at].choice > 0) continue
    usage.promptTokens += work.requests[at].prompt.length
    usage.cachedTokens += state.cached
  }
  return usage
}

/**
 * Hands a request's sequences to the engine and follows them. Resolves once all are accepted; rejects with
 * RESOURCE_EXHAUSTED, none of them left behind, when the queue is full. `signal` cancels what has not finished, and pieces then ends early.
 * Pieces that nobody has read yet wait in memory: at most one per token asked for.
 */
export const generate = async (parts: GenerateParts, work: Work, signal: AbortSignal): Promise<Generation> => {
  const { intake } = parts
  const pieces: (Piece | PromptPiece)[] = []
  let failed: MeshError | null = null
  let wake = (): void => {}
  const choices = work.requests.map((request, choice) => follow(parts, work, choice, request))

  const cancel = (reason: string): void => {
    for (const [at, choice] of choices.entries()) if (choice.close(reason)) intake.cancel(work.requests[at].id)
    wake()
  }
  const fail = (error: MeshError): void => {
    failed ??= error
    cancel('error')
  }
  const hear = (at: number, event: EngineEvent): void => {
    const choice = choices[at]
    if (!choice.state.open) return
    if (event.kind === 'started') choice.start(event.cachedTokens)
    else if (event.kind === 'prompt') pieces.push({ kind: 'prompt', choice: at, logprobs: event.logprobs })
    else if (event.kind === 'failed') fail(failure(event.code, event.message))
    else {
      const piece = choice.token(event)
      pieces.push(piece)
      // A stop string ends a choice that the engine would continue.
      if (piece.finish && !event.finish) intake.cancel(event.id)
    }
    wake()
  }

  const onAbort = (): void => cancel('cancelled')
  signal.addEventListener('abort', onAbort, { once: true })
  if (signal.aborted) onAbort()
  try {
    for (const [at, request] of work.requests.entries()) {
      if (!choices[at].state.open) continue
      await intake.submit(request, (event) => {
        try {
          hear(at, event)
        } catch (error) {
          fail(MeshError.from(error))
        }
      })
    }
  } catch (error) {
    cancel('refused')
    throw error
  }

  const read = async function* () {
    try {
      for (;;) {
        while (pieces.length > 0) yield* pieces.splice(0)
        if (failed) throw failed
        if (!choices.some((choice) => choice.state.open)) return
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
      cancel('cancelled')
    }
  }
  return { pieces: read(), usage: () => usageOf(work, choices) }
}
