import type { AddressInfo } from 'node:net'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import OpenAI from 'openai'
import pino from 'pino'
import { afterEach } from 'vitest'
import { type HttpOptions, openHttp } from '../../services/gateway/accept/http.ts'
import { openMetrics } from '../../services/gateway/metrics.ts'
import { feed, openQueue } from '../../services/gateway/queue.ts'
import { textStream } from '../../services/gateway/stream/emit.ts'
import { bytes, parrot, parrotEngine } from './parrot.ts'

const closing: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closing.splice(0)) await close()
})

/** The API on a free port, with a parrot for an engine. */
export const open = async (options: Partial<HttpOptions> & { queueLimit?: number; room?: number } = {}) => {
  const bird = parrotEngine()
  const metrics = openMetrics('parrot')
  const server = openHttp({
    served: parrot,
    intake: feed(bird.engine, openQueue(options.queueLimit ?? 100), options.room ?? 100),
    openTextStream: (of) => textStream(bytes, of),
    metrics,
    token: null,
    coverage: () => [],
    version: '1.2.3',
    log: pino({ level: 'silent' }),
    ...options,
  })
  await server.listen({ host: '127.0.0.1', port: 0 })
  closing.push(async () => {
    server.server.closeAllConnections()
    await server.close()
  })
  const url = `http://127.0.0.1:${(server.server.address() as AddressInfo).port}`
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: options.token ?? 'none', maxRetries: 0 })
  const post = (path: string, body: unknown, headers = {}) =>
    fetch(url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })
  return { url, client, post, bird, metrics }
}

/** The fields these tests look into. */
type Body = {
  choices: { logits_sha256: string }[]
  usage: { completion_tokens: number }
  error: { message: string; type: string; code: string | null }
}
export const bodyOf = async (response: Response) => (await response.json()) as Body

export const eventsOf = async (response: Response): Promise<EventSourceMessage[]> => {
  const events: EventSourceMessage[] = []
  const parser = createParser({ onEvent: (event) => events.push(event) })
  parser.feed(await response.text())
  return events
}
