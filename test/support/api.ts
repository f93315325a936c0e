import type { AddressInfo } from 'node:net'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import OpenAI from 'openai'
import pino from 'pino'
import { type HttpOptions, openHttp } from '../../services/gateway/accept/http.ts'
import type { Served } from '../../services/gateway/accept/served.ts'
import { type Metrics, openMetrics } from '../../services/gateway/metrics.ts'
import { feed, openQueue } from '../../services/gateway/queue.ts'
import { textStream } from '../../services/gateway/stream/emit.ts'
import { alphabetFolder, describeServed } from './alphabet.ts'
import { type Local, openLocal } from './local.ts'

/** The alphabet model and an engine that runs it in this process. */
export type Reader = {
  served: Served
  /** The same with a context of a million tokens. */
  endless: Served
  local: Local
  close(): Promise<void>
}

export const openReader = async (): Promise<Reader> => {
  const { dir, remove } = await alphabetFolder()
  const served = await describeServed(dir)
  const local = await openLocal(dir)
  return {
    served,
    endless: { ...served, config: { ...served.config, contextLength: 1_000_000 } },
    local,
    async close() {
      await local.close()
      await remove()
    },
  }
}

/** What HTTP and gRPC need of a gateway, with counters of its own. */
export const partsOf = ({ served, local }: Pick<Reader, 'served' | 'local'>, queueLimit = 100, room = 100) => ({
  served,
  intake: feed(local.engine, openQueue(queueLimit), room),
  openTextStream: (options: Parameters<typeof textStream>[1]) =>
    textStream(served.tokenizer ?? { decode: () => '' }, options),
  metrics: openMetrics(served.name),
})

export type Api = {
  url: string
  client: OpenAI
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>
  metrics: Metrics
  close(): Promise<void>
}

type ApiOptions = Partial<HttpOptions> & { queueLimit?: number; room?: number }

/** The HTTP API on a free port. */
export const openApi = async (reader: Reader, { queueLimit, room, ...options }: ApiOptions = {}): Promise<Api> => {
  const parts = partsOf({ served: options.served ?? reader.served, local: reader.local }, queueLimit, room)
  const log = pino({ level: 'silent' })
  const server = openHttp({ ...parts, token: null, coverage: () => [], version: '1.2.3', log, ...options })
  await server.listen({ host: '127.0.0.1', port: 0 })
  const url = `http://127.0.0.1:${(server.server.address() as AddressInfo).port}`
  return {
    url,
    client: new OpenAI({ baseURL: `${url}/v1`, apiKey: options.token ?? 'none', maxRetries: 0 }),
    post: (path, body, headers = {}) =>
      fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    metrics: parts.metrics,
    async close() {
      server.server.closeAllConnections()
      await server.close()
    },
  }
}

/** The fields these tests look into. */
export type Body = {
  choices: { logits_sha256: string }[]
  usage: { completion_tokens: number }
  error: { message: string; type: string; code: string | null }
}
export const bodyOf = async (response: Response): Promise<Body> => (await response.json()) as Body

/** All server-sent events of an answer; `onEvent` hears of each as it comes. */
export const eventsOf = async (response: Response, onEvent = (): void => {}): Promise<EventSourceMessage[]> => {
  const events: EventSourceMessage[] = []
  const parser = createParser({
    onEvent: (event) => {
      events.push(event)
      onEvent()
    },
  })
  const decoder = new TextDecoder()
  for await (const bytes of response.body ?? []) parser.feed(decoder.decode(bytes, { stream: true }))
  return events
}
