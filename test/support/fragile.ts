import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'

/** What goes wrong on one connection once `after` of its tokens are sent. */
export type Break = {
  after: number
  how: 'reset' | 'unavailable' | 'silence' | 'failure'
}

/** What the servers of one group know of a request, as gateways do through Redis. */
type Request = { prompt: number[]; tokens: number; connections: number; key: string | undefined }

export type Fragile = {
  urls: string[]
  /** By id; in the order of their acceptance. */
  requests: Map<string, Request>
  /** Last-Event-ID of every reconnection, null where it had none. */
  resumedAfter: (string | null)[]
  close(): Promise<void>
}

export type FragileOptions = {
  servers?: number
  /** Of the connection that is the request's n-th, from 0; null: it holds. */
  breakOf?(request: Request, connection: number): Break | null
  /** Where a resumed stream begins, given where it should. */
  resumeFrom?(index: number): number
  /** What answers a POST instead of tokens. */
  refuse?(posts: number): { status: number; message: string } | null
}

/** The token a request has at an index: a plain function of its prompt. */
export const tokenAt = (prompt: readonly number[], index: number): number =>
  prompt.reduce((sum, id, at) => (sum * 31 + id + at) % 997, index + 1)

/**
 * HTTP servers that stream tokens as gateways do, with indices, x-request-id and reconnection at any of them, and break
 * their connections as told.
 */
export const openFragile = async (options: FragileOptions = {}): Promise<Fragile> => {
  const { servers = 1, breakOf = () => null, resumeFrom = (index) => index, refuse = () => null } = options
  const requests = new Map<string, Request>()
  const resumedAfter: (string | null)[] = []
  let posts = 0

  const stream = (id: string, from: number, response: ServerResponse): void => {
    const request = requests.get(id)!
    const end = breakOf(request, request.connections++)
    response.writeHead(200, { 'content-type': 'text/event-stream', 'x-request-id': id })
    response.flushHeaders()
    const last = request.tokens - 1
    const sendOne = (index: number, sent: number): void => {
      if (end && sent === end.after) {
        if (end.how === 'reset') response.socket!.resetAndDestroy()
        else if (end.how !== 'silence') response.end(`data: ${JSON.stringify({ error: errorOf(end.how) })}\n\n`)
        return
      }
      const choice = {
        text: 'x',
        token_ids: [tokenAt(request.prompt, index)],
        finish_reason: index < last ? null : 'length',
      }
      response.write(`id: ${index}\ndata: ${JSON.stringify({ choices: [choice] })}\n\n`)
      if (index < last) setImmediate(sendOne, index + 1, sent + 1)
      else {
        const usage = { prompt_tokens: request.prompt.length, completion_tokens: request.tokens }
        response.end(`data: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`)
      }
    }
    sendOne(from, 0)
  }

  const post = async (message: IncomingMessage, response: ServerResponse): Promise<void> => {
    const refusal = refuse(posts++)
    if (refusal) {
      response.writeHead(refusal.status, { 'content-type': 'application/json' })
      response.end(JSON.stringify({ error: { message: refusal.message } }))
      return
    }
    const body = (await json(message)) as { prompt: number[]; max_tokens: number }
    const id = `request-${requests.size}`
    const key = message.headers['idempotency-key'] as string | undefined
    requests.set(id, { prompt: body.prompt, tokens: body.max_tokens, connections: 0, key })
    stream(id, 0, response)
  }

  const hear = (message: IncomingMessage, response: ServerResponse): void => {
    const id = /^\/v1\/requests\/([^/]+)\/stream$/.exec(message.url!)?.[1]
    if (message.method === 'POST') void post(message, response)
    else if (message.url === '/v1/models') response.end(JSON.stringify({ data: [{ id: 'fragile' }] }))
    else if (id && requests.has(id)) {
      const after = (message.headers['last-event-id'] as string | undefined) ?? null
      resumedAfter.push(after)
      stream(id, resumeFrom(Number(after ?? -1) + 1), response)
    } else {
      response.writeHead(404)
      response.end()
    }
  }

  const listening = await Promise.all(Array.from({ length: servers }, () => listen(createServer(hear))))
  return {
    urls: listening.map((server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`),
    requests,
    resumedAfter,
    close: async () => {
      for (const server of listening) {
        server.closeAllConnections()
        await new Promise((resolve) => server.close(resolve))
      }
    },
  }
}

const errorOf = (how: 'unavailable' | 'failure') =>
  how === 'unavailable'
    ? { message: 'the gateway stops', type: 'server_error', param: null, code: null }
    : { message: 'a fault of the gateway', type: 'server_error', param: null, code: 'internal_error' }

const listen = (server: Server): Promise<Server> =>
  new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)))
