import type { EngineEvent, GenerationRequest, TokenLogprob } from '../sequence.ts'

/** Requests and events as JSON, for stores outside this process. What is read back equals what was written, to the bit. */

type StoredRequest = Omit<GenerationRequest, 'sampling' | 'source' | 'search' | 'noRepeatNgram'> & {
  /** Absent from what was stored before there were encoder–decoders and beams: a queue outlives a gateway's update. */
  source?: readonly number[]
  search?: GenerationRequest['search']
  noRepeatNgram?: number
  sampling: Omit<GenerationRequest['sampling'], 'seed' | 'logitBias'> & { seed: string; logitBias: [number, number][] }
}

export const packRequest = (request: GenerationRequest): StoredRequest => {
  const { sampling } = request
  return {
    ...request,
    sampling: { ...sampling, seed: String(sampling.seed), logitBias: [...sampling.logitBias] },
  }
}

export const unpackRequest = (stored: StoredRequest): GenerationRequest => {
  const { sampling } = stored
  return {
    ...stored,
    source: stored.source ?? [],
    search: stored.search ?? null,
    noRepeatNgram: stored.noRepeatNgram ?? 0,
    sampling: { ...sampling, seed: BigInt(sampling.seed), logitBias: new Map(sampling.logitBias) },
  }
}

/** JSON has no infinity: a token that cannot be drawn has the log-probability null. */
type StoredLogprob = { id: number; logprob: number | null; top: { id: number; logprob: number | null }[] }

const finite = (value: number): number | null => (Number.isFinite(value) ? value : null)
const packLogprob = ({ id, logprob, top }: TokenLogprob): StoredLogprob => ({
  id,
  logprob: finite(logprob),
  top: top.map((other) => ({ id: other.id, logprob: finite(other.logprob) })),
})
const unpackLogprob = ({ id, logprob, top }: StoredLogprob): TokenLogprob => ({
  id,
  logprob: logprob ?? Number.NEGATIVE_INFINITY,
  top: top.map((other) => ({ id: other.id, logprob: other.logprob ?? Number.NEGATIVE_INFINITY })),
})

type StoredEvent =
  | { kind: 'started'; cachedTokens: number }
  | { kind: 'prompt'; begin: number; logprobs: (StoredLogprob | null)[] }
  | { kind: 'failed'; code: number; message: string }
  | {
      kind: 'token'
      token: number
      logprob: StoredLogprob | null
      digest: string | null
      finish: 'stop' | 'length' | 'cancelled' | null
    }

const stored = (event: EngineEvent): StoredEvent => {
  if (event.kind === 'started') return { kind: 'started', cachedTokens: event.cachedTokens }
  if (event.kind === 'failed') return { kind: 'failed', code: event.code, message: event.message }
  if (event.kind === 'prompt')
    return { kind: 'prompt', begin: event.begin, logprobs: event.logprobs.map((one) => one && packLogprob(one)) }
  const { token, logprob, digest, finish } = event
  const hash = digest && Buffer.from(digest).toString('base64')
  return { kind: 'token', token, logprob: logprob && packLogprob(logprob), digest: hash, finish }
}

export const packEvent = (event: EngineEvent): string => JSON.stringify(stored(event))

/** `id` names the request; a token's index follows from its place. */
export const unpackEvent = (text: string, id: string, index: number): EngineEvent => {
  const event = JSON.parse(text) as StoredEvent
  if (event.kind === 'started' || event.kind === 'failed') return { ...event, id }
  if (event.kind === 'prompt') return { ...event, id, logprobs: event.logprobs.map((one) => one && unpackLogprob(one)) }
  const { logprob, digest } = event
  return {
    ...event,
    id,
    index,
    logprob: logprob && unpackLogprob(logprob),
    digest: digest === null ? null : new Uint8Array(Buffer.from(digest, 'base64')),
  }
}
