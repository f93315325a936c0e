import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { createParser } from 'eventsource-parser'
import type { Ask } from './streams.ts'

/** Without a token for this long a gateway is taken for gone, and another asked. */
const SILENCE_MS = 2_500
const RETRY_MS = 100
const LIMIT_MS = 180_000

export type Roamed = {
  /** x-request-id. */
  id: string
  ids: number[]
  digest: string
  /** Times of the tokens' arrival, milliseconds of one monotonic clock. */
  atMs: number[]
  /** How often the stream broke. */
  breaks: number
  /** Answers other than a stream, by status. */
  refusals: number[]
}

type State = Roamed & { lastEventId: string | null; done: boolean; onToken: () => void }

/** Takes one event in. Every token must be the next one. */
const take = (state: State, id: string | undefined, data: string): void => {
  if (data === '[DONE]') {
    state.done = true
    return
  }
  const { choices, error } = JSON.parse(data)
  if (error) throw new Error(error.message)
  // The prompt's ids stand before the first token.
  if (id === 'p') return
  if (id !== String(state.ids.length)) throw new Error(`event ${id} after ${state.ids.length} tokens`)
  state.lastEventId = id
  state.ids.push(...choices[0].token_ids)
  state.digest ||= choices[0].logits_sha256 ?? ''
  state.atMs.push(performance.now())
  state.onToken()
}

const read = async (response: Response, state: State, heard: () => void): Promise<void> => {
  const parser = createParser({ onEvent: ({ id, data }) => take(state, id, data) })
  const decoder = new TextDecoder()
  for await (const bytes of response.body ?? []) {
    heard()
    parser.feed(decoder.decode(bytes, { stream: true }))
  }
}

/** One try at one gateway, from where the last one broke off. */
const visit = async (url: string, ask: Ask, key: string, state: State): Promise<void> => {
  const gone = new AbortController()
  let timer = setTimeout(() => gone.abort(), SILENCE_MS)
  const heard = (): void => {
    clearTimeout(timer)
    timer = setTimeout(() => gone.abort(), SILENCE_MS)
  }
  const body = { ...ask, stream: true, ignore_eos: true, return_token_ids: true, logits_sha256: true }
  try {
    const response = state.id
      ? await fetch(`${url}/v1/requests/${state.id}/stream`, {
          headers: state.lastEventId === null ? {} : { 'last-event-id': state.lastEventId },
          signal: gone.signal,
        })
      : await fetch(`${url}/v1/completions`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', 'idempotency-key': key },
          body: JSON.stringify({ ...body, reconnect_grace_seconds: 120 }),
          signal: gone.signal,
        })
    state.id ||= response.ok ? (response.headers.get('x-request-id') ?? '') : ''
    if (response.ok) return await read(response, state, heard)
    state.refusals.push(response.status)
    await response.arrayBuffer()
  } finally {
    clearTimeout(timer)
  }
}

const broken = (error: unknown): boolean =>
  error instanceof TypeError || (error instanceof Error && error.name === 'AbortError')

/**
 * Streams one completion to its end through whichever gateway answers: sends it under one Idempotency-Key until one accepts it, and
 * goes on behind its last event when a stream breaks. @throws Error when a token is missing, repeated or out of order.
 */
export const roam = async (
  urls: () => readonly string[],
  ask: Ask,
  first = 0,
  onToken = (): void => {},
): Promise<Roamed> => {
  const state: State = {
    id: '',
    ids: [],
    digest: '',
    atMs: [],
    breaks: 0,
    refusals: [],
    lastEventId: null,
    done: false,
    onToken,
  }
  const key = randomUUID()
  const until = performance.now() + LIMIT_MS
  for (let at = first; !state.done; at++) {
    if (performance.now() > until) throw new Error(`request ${state.id} is stuck after ${state.ids.length} tokens`)
    const open = urls()
    try {
      await visit(open[at % open.length], ask, key, state)
    } catch (error) {
      if (!broken(error)) throw error
    }
    if (state.done) break
    state.breaks++
    await delay(RETRY_MS)
  }
  if (state.ids.length !== ask.max_tokens) throw new Error(`${state.ids.length} tokens of ${ask.max_tokens}`)
  const { id, ids, digest, atMs, breaks, refusals } = state
  return { id, ids, digest, atMs, breaks, refusals }
}
