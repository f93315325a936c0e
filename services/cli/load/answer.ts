import type { EventSourceMessage } from 'eventsource-parser'

/** Why a request failed, as a program reads it. */
export const KINDS = {
  refused: 'refused (429)',
  rejected: 'rejected (other 4xx)',
  server: 'server error (5xx)',
  event: 'error in the stream',
  unreachable: 'unreachable',
  broken: 'broken stream',
  timeout: 'timeout',
  wrong: 'wrong tokens',
} as const
export type Kind = keyof typeof KINDS

/** `again`: another try may succeed, here or at another gateway. */
export type Fault = { kind: Kind; message: string; again: boolean }

/** What has been heard of a streamed answer, over as many connections as it took. Times are in ms on one monotonic clock. */
export type Heard = {
  /** Id of the last event that had one: where a reader who comes back goes on. */
  lastId: string | null
  /** Index of the last token; null before the first, and where ids are no indices. */
  lastIndex: number | null
  complete: boolean
  tokens: number
  /** Arrival of the first and the last token; null before the first. */
  firstMs: number | null
  lastMs: number | null
  /** Between the arrivals of neighbouring token events. */
  gapsMs: number[]
  /** null where the server does not return them. */
  ids: number[] | null
  logitsSha256: string | null
  /** As the server counts them; null where it does not. */
  usage: { prompt_tokens: number; completion_tokens: number } | null
}

export type Answer = {
  readonly heard: Readonly<Heard>
  /** Takes in an event; what it says is wrong, or null. */
  hear(event: EventSourceMessage, atMs: number): Fault | null
}

type Choice = {
  text?: string | null
  delta?: { content?: string | null; reasoning_content?: string | null } | null
  finish_reason?: string | null
  token_ids?: number[] | null
  logits_sha256?: string | null
}
type Chunk = {
  error?: { message?: string; type?: string; code?: string | null } | null
  choices?: Choice[]
  usage?: { prompt_tokens: number; completion_tokens: number } | null
}

const parse = (data: string): Chunk | null => {
  try {
    const chunk = JSON.parse(data)
    return typeof chunk === 'object' ? chunk : null
  } catch {
    return null
  }
}

const INDEX = /^\d{1,15}$/

const errorOf = (error: NonNullable<Chunk['error']>): Fault => ({
  kind: 'event',
  message: error.message ?? JSON.stringify(error),
  // A gateway that stops or loses its experts says so without a code of its own; a fault of the request or of the code would recur.
  again: (error.type === 'server_error' && (error.code ?? null) === null) || /^unavailable$/i.test(error.code ?? ''),
})

/** Without ids, an event with text counts as one token. */
const tokensOf = ({ token_ids, text, delta }: Choice): number =>
  token_ids?.length ?? (text || delta?.content || delta?.reasoning_content ? 1 : 0)

const wrong = (message: string): Fault => ({ kind: 'wrong', message, again: false })

export const openAnswer = (): Answer => {
  const heard: Heard = {
    lastId: null,
    lastIndex: null,
    complete: false,
    tokens: 0,
    firstMs: null,
    lastMs: null,
    gapsMs: [],
    ids: null,
    logitsSha256: null,
    usage: null,
  }

  /** An index that is not the next one tells of a token lost or repeated. */
  const hearIndex = (id: string | undefined): Fault | null => {
    if (id === undefined) return null
    if (!INDEX.test(id)) {
      heard.lastId = id
      return null
    }
    const [index, due] = [Number(id), (heard.lastIndex ?? -1) + 1]
    if (index !== due) return wrong(`token ${index} came where token ${due} was due`)
    heard.lastIndex = index
    heard.lastId = id
    return null
  }

  const hearTokens = (tokens: number, atMs: number): void => {
    if (tokens === 0) return
    if (heard.lastMs !== null) heard.gapsMs.push(atMs - heard.lastMs)
    heard.firstMs ??= atMs
    heard.lastMs = atMs
    heard.tokens += tokens
  }

  const hearChoice = (choice: Choice, atMs: number): void => {
    if (choice.token_ids) {
      heard.ids ??= []
      heard.ids.push(...choice.token_ids)
    }
    hearTokens(tokensOf(choice), atMs)
    heard.logitsSha256 = choice.logits_sha256 ?? heard.logitsSha256
    if (choice.finish_reason) heard.complete = true
  }

  return {
    heard,
    hear({ data, id }, atMs) {
      if (data === '[DONE]') {
        heard.complete = true
        return null
      }
      const chunk = parse(data)
      if (!chunk) return { kind: 'broken', message: `an event is no JSON object: ${data.slice(0, 80)}`, again: false }
      if (chunk.error) return errorOf(chunk.error)
      const fault = hearIndex(id)
      if (fault) return fault
      heard.usage = chunk.usage ?? heard.usage
      for (const choice of chunk.choices ?? []) hearChoice(choice, atMs)
      return null
    },
  }
}
