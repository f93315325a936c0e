import { createHash } from 'node:crypto'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { EngineEvent, TokenLogprob } from '../sequence.ts'
import type { GenerateParts, Piece, PromptPiece } from './generate.ts'
import { promptIds } from './prompt.ts'
import type { Work } from './request.ts'

/** What is measured of a request where it was accepted; a reader who comes later measures nothing. */
export type Measures = Pick<
  GenerateParts['metrics'],
  'accepted' | 'started' | 'token' | 'firstToken' | 'interToken' | 'finished'
>

/** For readers of what is measured elsewhere. */
export const unmeasured: Measures = {
  accepted() {},
  started() {},
  token() {},
  firstToken() {},
  interToken() {},
  finished() {},
}

/** A choice on its way: turns engine events into pieces and times them. */
export const openChoice = (parts: GenerateParts, metrics: Measures, work: Work, choice: number) => {
  const request = work.requests[choice]
  const text =
    parts.served.tokenizer &&
    parts.openTextStream({ prompt: request.prompt, stop: work.stop, minTokens: request.minTokens })
  const digest = request.digest ? createHash('sha256') : null
  const scored: (TokenLogprob | null)[] = []
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
    // A sequence that was preempted or resumed starts again; it is counted once.
    if (state.started) return
    state.started = true
    // With a source, rows are reused of the output alone, which is no part of what was sent.
    state.cached = request.source.length > 0 ? 0 : cached
    metrics.started(state.cached, promptIds(request).length)
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

  /** Parts that overlap, as they do after a preemption, become one piece once the prompt is complete. */
  const prompt = ({ begin, logprobs }: EngineEvent & { kind: 'prompt' }): PromptPiece | null => {
    if (scored.length === request.prompt.length) return null
    scored.push(...logprobs.slice(scored.length - begin))
    return scored.length === request.prompt.length ? { kind: 'prompt', choice, logprobs: scored } : null
  }

  return { state, start, token, prompt, close }
}
