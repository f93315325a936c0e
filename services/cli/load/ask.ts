import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type Fault, type Heard, openAnswer } from './answer.ts'
import { attempt, type Call, type Listener } from './attempt.ts'

/** Tries in a row that bring no token before a request is given up. */
const RESUME_TRIES_MAX = 40
const RESUME_FIRST_DELAY_MS = 50
const RESUME_DELAY_MAX_MS = 1_000

export type Target = {
  /** http://HOST:PORT of each gateway. */
  urls: readonly string[]
  /** The path of what is asked, such as /v1/completions. */
  path: string
  token: string | null
  /** A request that takes longer has failed. */
  timeoutMs: number
  /** A stream silent for so long counts as broken; null: any silence is waited out. */
  stallMs: number | null
  resume: boolean
}

export type Outcome = {
  heard: Readonly<Heard>
  /** null: the answer is complete. */
  fault: Fault | null
  /** Ended by whoever ran it: neither done nor failed. */
  stopped: boolean
  /** Times the request was sent again before an answer had begun, and times a broken stream was taken up again. */
  repeats: number
  resumes: number
}

const TIMED_OUT = Symbol('timed out')

/** One connection's own end: with the request's, or by silence, which any sign of life puts off. */
const openLine = (life: AbortSignal, stallMs: number | null) => {
  const line = new AbortController()
  const state = { silent: false }
  const hangUp = (): void => line.abort()
  const fallSilent = (): void => {
    state.silent = true
    hangUp()
  }
  const timer = stallMs === null ? undefined : setTimeout(fallSilent, stallMs)
  life.addEventListener('abort', hangUp, { once: true })
  const close = (): void => {
    clearTimeout(timer)
    life.removeEventListener('abort', hangUp)
  }
  return { signal: line.signal, state, alive: () => void timer?.refresh(), close }
}

/**
 * Sends one request and hears its answer; the `turn` decides at which gateway it begins. With `resume`, a break before the
 * answer has begun repeats the request under the same Idempotency-Key, and a later one goes on after the last token heard, each
 * at the next gateway. `onTokens` hears of tokens as they come. Aborting `life` stops it.
 */
export const ask = async (
  target: Target,
  turn: number,
  body: string,
  life: AbortController,
  onTokens: (tokens: number) => void,
): Promise<Outcome> => {
  const answer = openAnswer()
  const { heard } = answer
  const key = randomUUID()
  const timer = setTimeout(() => life.abort(TIMED_OUT), target.timeoutMs)
  const state = { requestId: null as string | null, repeats: 0, resumes: 0, barren: 0 }

  const once = async (): Promise<Fault | null> => {
    const url = target.urls[(turn + state.repeats + state.resumes) % target.urls.length]
    const call =
      state.requestId === null ? firstCall(target, url, key, body) : nextCall(target, url, state.requestId, heard)
    const line = openLine(life.signal, target.stallMs)
    const before = heard.tokens
    const listener: Listener = {
      onAccepted: (headers) => {
        state.requestId ??= headers.get('x-request-id')
        line.alive()
      },
      onEvent: (event, atMs) => {
        const tokens = heard.tokens
        const fault = answer.hear(event, atMs)
        line.alive()
        onTokens(heard.tokens - tokens)
        return fault
      },
    }
    const fault = await attempt(call, listener, line.signal)
    line.close()
    state.barren = heard.tokens > before ? 0 : state.barren + 1
    if (line.state.silent) return { kind: 'broken', message: `silent for ${target.stallMs} ms`, again: true }
    return fault
  }

  try {
    for (;;) {
      const fault = judge(await once(), heard, life.signal, target)
      if (!fault || !mayGoOn(fault, target, life.signal, state, heard)) {
        const stopped = life.signal.aborted && life.signal.reason !== TIMED_OUT && fault !== null
        return { heard, fault, stopped, repeats: state.repeats, resumes: state.resumes }
      }
      state[state.requestId === null ? 'repeats' : 'resumes'] += 1
      const pauseMs = Math.min(RESUME_DELAY_MAX_MS, RESUME_FIRST_DELAY_MS * 2 ** (state.barren - 1))
      // An end of the wait before its time shows in the next try.
      if (state.barren > 0) await delay(pauseMs, undefined, { signal: life.signal }).catch(() => {})
    }
  } finally {
    clearTimeout(timer)
  }
}

/** A stream can be taken up again where its request and its place in it are known; before the first token, always. */
const mayGoOn = (
  fault: Fault,
  { resume }: Target,
  life: AbortSignal,
  { requestId, barren }: { requestId: string | null; barren: number },
  { tokens, lastId }: Readonly<Heard>,
): boolean => {
  const placed = tokens === 0 || (requestId !== null && lastId !== null)
  return fault.again && resume && !life.aborted && placed && barren <= RESUME_TRIES_MAX
}

/** What a try means for the request: an answer that is complete is so, however its connection ended. */
const judge = (fault: Fault | null, heard: Readonly<Heard>, life: AbortSignal, target: Target): Fault | null => {
  if (heard.complete && fault?.kind !== 'wrong') return null
  if (life.reason === TIMED_OUT)
    return { kind: 'timeout', message: `not finished after ${target.timeoutMs / 1000} s`, again: false }
  return fault ?? { kind: 'broken', message: 'the stream ended without a finish_reason', again: true }
}

const authorised = ({ token }: Target): Record<string, string> =>
  token === null ? {} : { authorization: `Bearer ${token}` }

const firstCall = (target: Target, url: string, key: string, body: string): Call => ({
  url: url + target.path,
  method: 'POST',
  headers: {
    ...authorised(target),
    'content-type': 'application/json',
    ...(target.resume ? { 'idempotency-key': key } : {}),
  },
  body,
})

const nextCall = (target: Target, url: string, requestId: string, { lastId }: Readonly<Heard>): Call => ({
  url: `${url}/v1/requests/${encodeURIComponent(requestId)}/stream`,
  method: 'GET',
  headers: { ...authorised(target), ...(lastId === null ? {} : { 'last-event-id': lastId }) },
})
