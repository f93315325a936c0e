import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyInstance, FastifyPluginCallback, FastifyRequest } from 'fastify'
import { Code, MeshError } from '../../../shared/errors.ts'
import { toFailure } from './failure.ts'

/** Pages of the operator, by path below /admin. */
export type AdminPages = { token: string; pages: readonly { path: string; plugin: FastifyPluginCallback }[] }

/** Where these pages are, without a slash at the end. */
export const adminPath = '/admin'

/** A browser asks for a name and a password: the password is the token, the name may be any. */
const tokenOf = ({ headers: { authorization = '' } }: FastifyRequest): string => {
  const [scheme, value = ''] = authorization.split(' ', 2)
  if (scheme.toLowerCase() !== 'basic') return scheme.toLowerCase() === 'bearer' ? value : ''
  const text = Buffer.from(value, 'base64').toString()
  return text.slice(text.indexOf(':') + 1)
}

const refused = new MeshError(
  Code.UNAUTHENTICATED,
  'These pages ask for the admin token: send it as a bearer token, or as the password in a browser.',
  { reason: 'invalid_api_key' },
)

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

/** The operator's pages behind their own token. Without one none of them exists. */
export const addAdmin = (server: FastifyInstance, { token, pages }: AdminPages): void => {
  void server.register(async (scope) => {
    scope.addHook('onRequest', async (request, reply) => {
      if (timingSafeEqual(digest(tokenOf(request)), digest(token))) return
      // Answered here: a page may have an error handler of its own, which would know nothing of MeshErrors.
      const { status, body } = toFailure(refused)
      return reply.code(status).header('www-authenticate', 'Basic realm="expertmesh admin", charset="UTF-8"').send(body)
    })
    for (const { path, plugin } of pages) await scope.register(plugin, { prefix: `${adminPath}${path}` })
  })
}
