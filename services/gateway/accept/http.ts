import { createHash, randomUUID, timingSafeEqual } from 'node:crypto'
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify'
import { Code, MeshError } from '../../../shared/errors.ts'
import { type AdminPages, addAdmin, adminPath } from './admin.ts'
import type { Archive } from './batches/archive.ts'
import { addBatches, addFiles } from './batches/routes.ts'
import { toFailure } from './failure.ts'
import type { GenerateParts } from './generate.ts'
import { modelBody } from './openai.ts'
import { addOperations, type Coverage } from './operations.ts'
import { addRequests } from './requests.ts'
import { requireModel } from './served.ts'
import { detokenize, tokenize } from './text.ts'

/** A prompt of a million ids is 8 MB of JSON. */
export const bodyLimitBytes = 10 * 1024 * 1024
/** How long a client may take to send a request. */
const receiveLimitMs = 60_000

/** Probes have no token to send, and what they learn is no secret. */
const open = new Set(['/livez', '/readyz', '/health'])

export type HttpOptions = GenerateParts & {
  /** Bearer token every route but the probes asks for; null asks for none. */
  token: string | null
  coverage: Coverage
  /** Files and batches. */
  archive: Archive
  /** null: no page of the operator exists. */
  admin: AdminPages | null
  version: string
  log: FastifyBaseLogger
}

/** Whether the header carries the token, in a time that does not depend on how much of it is right. */
const bears = (header: string | undefined, token: string): boolean => {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(header ?? ''), digest(`Bearer ${token}`))
}

const guard =
  (token: string) =>
  async (request: FastifyRequest): Promise<void> => {
    const url = request.routeOptions.url ?? ''
    // The operator's pages have a token of their own.
    if (open.has(url) || url.startsWith(`${adminPath}/`) || bears(request.headers.authorization, token)) return
    throw new MeshError(
      Code.UNAUTHENTICATED,
      'This gateway asks for a token: send the header "Authorization: Bearer TOKEN".',
      { reason: 'invalid_api_key' },
    )
  }

const refuse = (error: unknown, request: FastifyRequest, reply: FastifyReply): void => {
  const { status, headers, body } = toFailure(error)
  if (status >= 500) request.log.error(error)
  // Closing with the rest of a body on its way would reset the connection, and the client might never read the answer.
  reply.removeHeader('connection')
  request.raw.resume()
  reply
    .code(status)
    .headers({ ...headers, 'x-request-id': request.id })
    .send(body)
}

/** The OpenAI-compatible API, ready to listen. close() ends it once the requests under way have been answered. */
export const openHttp = (options: HttpOptions): FastifyInstance => {
  const { served } = options
  const server = Fastify({
    bodyLimit: bodyLimitBytes,
    requestTimeout: receiveLimitMs,
    genReqId: () => randomUUID(),
    logController: new LogController({ disableRequestLogging: true }),
    loggerInstance: options.log,
    // Such as a path that is no URL: it meets no hook and no error handler.
    frameworkErrors: refuse,
  })
  // Without a parser of its own, text is refused like every type that is not JSON.
  server.removeContentTypeParser('text/plain')

  server.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
  })
  if (options.token !== null) server.addHook('onRequest', guard(options.token))
  server.setErrorHandler(refuse)
  server.setNotFoundHandler((request) => {
    const path = request.url.split('?')[0]
    throw new MeshError(Code.NOT_FOUND, `There is no ${request.method} ${path} here.`, { reason: 'unknown_url' })
  })

  server.get('/v1/models', async () => ({ object: 'list', data: [modelBody(served)] }))
  server.get<{ Params: { '*': string } }>('/v1/models/*', async (request) => {
    requireModel(served, request.params['*'])
    return modelBody(served)
  })
  addRequests(server, options)
  addFiles(server, options.archive)
  addBatches(server, options.archive)
  server.post('/tokenize', async (request) => tokenize(served, request.body))
  server.post('/detokenize', async (request) => detokenize(served, request.body))
  addOperations(server, options)
  if (options.admin) addAdmin(server, options.admin)
  return server
}
