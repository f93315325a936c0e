import type { AddressInfo } from 'node:net'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import OpenAI from 'openai'
import pino from 'pino'
import { openDriver } from '../../services/gateway/accept/batches/driver.ts'
import { type HttpOptions, openHttp } from '../../services/gateway/accept/http.ts'
import type { Served } from '../../services/gateway/accept/served.ts'
import { type Intake, openIntake } from '../../services/gateway/intake.ts'
import { type Metrics, openMetrics } from '../../services/gateway/metrics.ts'
import { openInProcess, type Store } from '../../services/gateway/store.ts'
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

/** Requests kept in this process. */
export const inProcess = (queueLimit = 100): Store => openInProcess({ queueLimit, keepMs: 60_000 })

/** What HTTP and gRPC need of a gateway, with counters of its own. */
export const partsOf = ({ served, local }: Pick<Reader, 'served' | 'local'>, store = inProcess(), room = 100) => ({
  served,
  intake: openIntake({ ...store, engine: local.engine, room, onError: (error) => console.error(error) }),
  openTextStream: (options: Parameters<typeof textStream>[1]) =>
    textStream(served.tokenizer ?? { decode: () => '' }, options),
  metrics: openMetrics(served.name),
})

export type Api = {
  url: string
  client: OpenAI
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>
  metrics: Metrics
  intake: Intake
  close(): Promise<void>
}

export type ApiOptions = Partial<HttpOptions> & {
  batchSequences?: number
  queueLimit?: number
  room?: number
  store?: Store
}

/** The HTTP API on a free port. */
export const openApi = async (
  reader: Reader,
  { queueLimit, room, store, batchSequences = 4, ...options }: ApiOptions = {},
): Promise<Api> => {
  const kept = store ?? inProcess(queueLimit)
  const parts = partsOf({ served: options.served ?? reader.served, local: reader.local }, kept, room)
  const log = pino({ level: 'silent' })
  const { prompt: archive, patient } = kept.archives
  const fixed = { token: null, admin: null, coverage: () => [], version: '1.2.3' }
  const server = openHttp({ ...parts, archive, ...fixed, log, ...options })
  const driver = openDriver({ ...parts, archive: patient, sequences: batchSequences, onError: console.error })
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
    intake: parts.intake,
    async close() {
      server.server.closeAllConnections()
      await server.close()
      await driver.close()
      await parts.intake.close()
      await kept.close()
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
