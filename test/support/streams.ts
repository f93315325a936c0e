import { eventsOf } from './api.ts'

/** A completion as a client asks for it; ids and digest come back. */
export type Ask = {
  prompt: string | readonly number[]
  max_tokens: number
  temperature: number
  top_p?: number
  seed?: number
  num_beams?: number
  cache_salt?: string
}

export type Told = {
  ids: number[]
  digest: string
  /** Times of the tokens' arrival, milliseconds of one monotonic clock. */
  atMs: number[]
}

/** Streams one completion to its end. @throws Error with what the server said instead. */
export const tell = async (url: string, ask: Ask): Promise<Told> => {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...ask, stream: true, ignore_eos: true, return_token_ids: true, logits_sha256: true }),
  })
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`)
  const atMs: number[] = []
  const events = await eventsOf(response, () => atMs.push(performance.now()))
  const told: Told = { ids: [], digest: '', atMs: atMs.slice(1) }
  for (const { data } of events) {
    if (data === '[DONE]') continue
    const { choices, error } = JSON.parse(data)
    if (error) throw new Error(error.message)
    told.ids.push(...(choices[0].token_ids ?? []))
    told.digest ||= choices[0].logits_sha256 ?? ''
  }
  if (told.ids.length !== ask.max_tokens) throw new Error(`${told.ids.length} tokens of ${ask.max_tokens}`)
  return told
}

export type Driven = {
  completed: number
  /** What went wrong, in words: errors, and answers that are not the expected ones. */
  failures: string[]
  /** Between two tokens of a stream, milliseconds, ascending. */
  gapsMs: number[]
  /** Of requests that completed, in the order of their ends: when they began, on the clock of performance.now, and how long they took. */
  requests: { beganMs: number; tookMs: number }[]
}

/** `clients` streams at a time go through the asks again and again until told to end; each answer is compared with the one expected. */
export const drive = async (
  url: string,
  asks: readonly Ask[],
  expected: ReadonlyMap<Ask, Told>,
  { clients, during }: { clients: number; during: () => Promise<void> },
): Promise<Driven> => {
  const driven: Driven = { completed: 0, failures: [], gapsMs: [], requests: [] }
  let ending = false
  let next = 0
  const client = async (): Promise<void> => {
    while (!ending) {
      const ask = asks[next++ % asks.length]
      const beganMs = performance.now()
      try {
        const { ids, digest, atMs } = await tell(url, ask)
        driven.requests.push({ beganMs, tookMs: performance.now() - beganMs })
        for (let i = 1; i < atMs.length; i++) driven.gapsMs.push(atMs[i] - atMs[i - 1])
        driven.completed++
        const due = expected.get(ask)
        if (due && (due.digest !== digest || due.ids.join() !== ids.join()))
          driven.failures.push(`other answer to ${JSON.stringify(ask)}`)
      } catch (error) {
        driven.failures.push(String((error as Error).message))
      }
    }
  }
  const running = Promise.all(Array.from({ length: clients }, client))
  try {
    await during()
  } finally {
    ending = true
  }
  await running
  driven.gapsMs.sort((a, b) => a - b)
  return driven
}

/** The share-th quantile of ascending values. */
export const quantile = (ascending: readonly number[], share: number): number =>
  ascending[Math.min(ascending.length - 1, Math.floor(share * ascending.length))]

/** What each ask is answered when nothing else goes on. */
export const answersOf = async (url: string, asks: readonly Ask[]): Promise<Map<Ask, Told>> => {
  const answers = new Map<Ask, Told>()
  for (const ask of asks) answers.set(ask, await tell(url, ask))
  return answers
}
