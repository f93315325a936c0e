import { createParser, type EventSourceMessage } from 'eventsource-parser'
import type { Fault, Kind } from './answer.ts'

/** Of an error's body this much is read, and of an event this much held. */
const ERROR_BODY_MAX_BYTES = 64 * 2 ** 10
const EVENT_MAX_CHARACTERS = 16 * 2 ** 20
/** Of an error's text this much is shown. */
const MESSAGE_MAX_CHARACTERS = 300

export type Call = { url: string; method: 'GET' | 'POST'; headers: Record<string, string>; body?: string }

export type Listener = {
  /** The headers came with 200. */
  onAccepted(headers: Headers): void
  onEvent(event: EventSourceMessage, atMs: number): Fault | null
}

const short = (text: string): string => text.replaceAll(/\s+/g, ' ').slice(0, MESSAGE_MAX_CHARACTERS)

/** fetch says only "fetch failed" or "terminated"; the reason is its cause. */
const reasonOf = (thrown: unknown): string => {
  const error = thrown instanceof Error && thrown.cause instanceof Error ? thrown.cause : thrown
  return error instanceof Error ? short(error.message || error.name) : short(String(error))
}

const readStart = async (body: NonNullable<Response['body']>): Promise<string> => {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of body) {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes >= ERROR_BODY_MAX_BYTES) break
  }
  return Buffer.concat(chunks).toString().slice(0, ERROR_BODY_MAX_BYTES)
}

const kindOf = (status: number, method: Call['method']): Kind => {
  // A stream that is asked for again and refused for good is one that broke.
  if (method === 'GET' && status < 500) return 'broken'
  if (status === 429) return 'refused'
  return status < 500 ? 'rejected' : 'server'
}
/** Statuses of a gateway, or of a proxy before it, that is not there at the moment. */
const AWAY = new Set([502, 503, 504])

const refusal = async (response: Response, method: Call['method']): Promise<Fault> => {
  const text = response.body ? await readStart(response.body).catch(() => '') : ''
  let message = text
  try {
    message = JSON.parse(text).error?.message ?? text
  } catch {
    // Not OpenAI's error schema: the text itself has to do.
  }
  return {
    kind: kindOf(response.status, method),
    message: `${response.status}: ${short(String(message))}`,
    again: AWAY.has(response.status),
  }
}

/**
 * Makes one call and reads its server-sent events to their end; null when they ended as a stream should. An abort shows as a
 * fault of a broken connection: whoever aborts knows better. Each event has the time at which its last byte arrived.
 */
export const attempt = async (call: Call, listener: Listener, signal: AbortSignal): Promise<Fault | null> => {
  let fault: Fault | null = null
  let accepted = false
  const parser = createParser({
    maxBufferSize: EVENT_MAX_CHARACTERS,
    onEvent: (event) => {
      fault ??= listener.onEvent(event, performance.now())
    },
    onError: (error) => {
      if (error.type !== 'max-buffer-size-exceeded') return
      fault ??= { kind: 'broken', message: `an event is longer than ${EVENT_MAX_CHARACTERS} characters`, again: false }
    },
  })
  try {
    const { url, ...rest } = call
    const response = await fetch(url, { ...rest, signal })
    if (!response.ok) return await refusal(response, call.method)
    accepted = true
    listener.onAccepted(response.headers)
    const decoder = new TextDecoder()
    for await (const bytes of response.body ?? []) {
      parser.feed(decoder.decode(bytes, { stream: true }))
      // Leaving the loop closes the connection.
      if (fault) return fault
    }
    return fault
  } catch (thrown) {
    return { kind: accepted ? 'broken' : 'unreachable', message: reasonOf(thrown), again: true }
  }
}
