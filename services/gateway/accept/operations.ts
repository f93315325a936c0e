import type { FastifyInstance } from 'fastify'
import type { Metrics } from '../metrics.ts'

/** The routed experts no live worker and no fallback holds; none of them missing is ready. */
export type Coverage = () => readonly { layer: number; expert: number }[]

export type Operations = { coverage: Coverage; metrics: Metrics; version: string }

/** What operators, probes and Prometheus ask. */
export const addOperations = (server: FastifyInstance, { coverage, metrics, version }: Operations): void => {
  // Alive is this thread answering; whether it can serve is readiness.
  server.get('/livez', async () => ({ status: 'ok' }))
  const ready = () => {
    const missing = coverage()
    return missing.length === 0
      ? { status: 200, body: { status: 'ready', missing: [] } }
      : { status: 503, body: { status: 'unavailable', missing } }
  }
  server.get('/readyz', async (_, reply) => {
    const { status, body } = ready()
    return reply.code(status).send(body)
  })
  server.get('/health', async (_, reply) => reply.code(ready().status).send())
  server.get('/version', async () => ({ version }))
  server.get('/metrics', async (_, reply) => {
    const text = await metrics.registry.metrics()
    return reply.type(metrics.registry.contentType).send(text)
  })
}
