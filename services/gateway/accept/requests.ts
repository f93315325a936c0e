import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import { checkRoom, type GenerateParts, generate, rejoin, type Sender } from './generate.ts'
import { requestIdOf, unpackKept } from './kept.ts'
import { acceptChat, acceptCompletion, type Work } from './request.ts'
import { respond } from './respond.ts'

const keyCharactersMax = 255

const digest = (...parts: readonly string[]): string => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(`${part.length}:`).update(part)
  return hash.digest('base64url')
}

/** Requests with one API key share alike with those of another, and only their sender may read them. */
export const tenantOf = (authorization: string | undefined): string => digest(authorization ?? '').slice(0, 16)

const senderOf = (request: FastifyRequest): Sender => {
  const tenant = tenantOf(request.headers.authorization)
  const name = request.headers['idempotency-key']
  if (name === undefined) return { tenant, key: null }
  if (typeof name !== 'string' || name === '' || name.length > keyCharactersMax)
    throw invalid(`Idempotency-Key must have 1 to ${keyCharactersMax} characters.`, 'Idempotency-Key')
  return { tenant, key: { name: digest(tenant, name), body: digest(request.url, JSON.stringify(request.body)) } }
}

const headerOf = (request: FastifyRequest, name: string): string | null => {
  const value = request.headers[name]
  return typeof value === 'string' ? value : null
}

/** Requests to generate: sent, joined by their Idempotency-Key, and read again by their id. */
export const addRequests = (server: FastifyInstance, parts: GenerateParts): void => {
  const { served, intake } = parts
  const send = (accept: (body: unknown, id: string) => Work) => async (request: FastifyRequest, reply: Reply) => {
    const work = accept(request.body, request.id)
    const sender = senderOf(request)
    return respond(parts, (signal) => generate(parts, work, sender, signal), reply)
  }
  const onRequest = async ({ headers }: FastifyRequest): Promise<void> => {
    // What joins a request that runs needs no place.
    if (headers['idempotency-key'] === undefined) checkRoom(parts, tenantOf(headers.authorization))
  }
  server.post(
    '/v1/completions',
    { onRequest },
    send((body, id) => acceptCompletion(served, body, `cmpl-${id}`)),
  )
  server.post(
    '/v1/chat/completions',
    { onRequest },
    send((body, id) => acceptChat(served, body, `chatcmpl-${id}`)),
  )

  server.get<{ Params: { id: string } }>('/v1/requests/:id/stream', async (request, reply) => {
    const { id } = request.params
    const tenant = tenantOf(request.headers.authorization)
    return respond(
      parts,
      (signal) => rejoin(parts, id, tenant, signal),
      reply,
      headerOf(request, 'last-event-id'),
      true,
    )
  })
  server.get<{ Params: { id: string } }>('/v1/requests/:id', async (request) => {
    const record = await intake.find(requestIdOf(request.params.id))
    const kept = record === null ? null : unpackKept(record)
    if (!kept || kept.tenant !== tenantOf(request.headers.authorization))
      throw new MeshError(Code.NOT_FOUND, `There is no request ${request.params.id} here.`, {
        reason: 'request_not_found',
      })
    const positions = await Promise.all(kept.work.requests.map(({ id }) => intake.position(id)))
    return { id: kept.work.id, created: kept.created, positions }
  })
}

type Reply = Parameters<typeof respond>[2]
