import { createBullBoard } from '@bull-board/api'
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter'
import { FastifyAdapter } from '@bull-board/fastify'
import type { FastifyPluginCallback } from 'fastify'
import type { Queue } from './queue.ts'

const description = 'Requests accepted and not yet answered'

/** Bull Board's page of the queues, to be served at `path`. It shows and changes nothing. */
export const boardPage = (path: string, queues: readonly Queue[]): FastifyPluginCallback | null => {
  const boards = queues.flatMap(({ bull }) =>
    bull ? [new BullMQAdapter(bull, { readOnlyMode: true, description })] : [],
  )
  if (boards.length === 0) return null
  const serverAdapter = new FastifyAdapter()
  serverAdapter.setBasePath(path)
  createBullBoard({ queues: boards, serverAdapter })
  return serverAdapter.registerPlugin()
}
