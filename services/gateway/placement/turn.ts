import type { FastifyPluginCallback } from 'fastify'
import type { Schedule } from '../queue.ts'

/** POST has the load levelled now, by one of the gateways that share the workers; answered before that is done. */
export const turnPage =
  ({ now }: Schedule): FastifyPluginCallback =>
  (server, _, done) => {
    server.post('/', async (_request, reply) => {
      await now()
      return reply.code(202).send({ status: 'asked' })
    })
    done()
  }
