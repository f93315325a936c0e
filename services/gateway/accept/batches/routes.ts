import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { Code, MeshError } from '../../../../shared/errors.ts'
import { checked } from '../fields.ts'
import { tenantOf } from '../requests.ts'
import { type Archive, archiveFull } from './archive.ts'
import { advance, type Batch, batchBody, hasEnded, openBatch } from './batch.ts'
import { changeTo } from './claim.ts'
import { contentOf, type FileRecord, findFile, saveFile } from './files.ts'
import { pageOf, pageQuery } from './page.ts'
import { acceptForms, readUpload } from './upload.ts'

const nowSeconds = (): number => Math.floor(Date.now() / 1000)
const newId = (kind: string): string => kind + randomBytes(16).toString('hex')

const filesQuery = pageQuery.extend({
  purpose: z.string().nullish(),
  order: z.enum(['asc', 'desc']).nullish(),
})

const missing = (what: string, id: string, param?: string): MeshError =>
  new MeshError(Code.NOT_FOUND, `There is no ${what} ${id} here.`, {
    reason: `${what}_not_found`,
    ...(param !== undefined && { param }),
  })

type WithId = FastifyRequest<{ Params: { id: string } }>

const senderOf = (request: FastifyRequest): string => tenantOf(request.headers.authorization)

const openBatches = async (archive: Archive, tenant: string): Promise<Batch[]> => {
  const bodies = await archive.list('batch', tenant)
  return bodies.map((body) => JSON.parse(body) as Batch).filter((batch) => !hasEnded(batch))
}

/** /v1/files: the input and the results of batches. */
export const addFiles = (server: FastifyInstance, archive: Archive): void => {
  const fileOf = async (request: WithId): Promise<FileRecord> => {
    const file = await findFile(archive, request.params.id, senderOf(request))
    if (!file) throw missing('file', request.params.id)
    return file
  }
  void server.register(async (scope) => {
    acceptForms(scope)
    scope.post('/v1/files', async (request) => {
      const { filename, text } = await readUpload(request.body, request.headers['content-type'] ?? '')
      const file = { id: newId('file-'), filename, purpose: 'batch', tenant: senderOf(request) } as const
      return saveFile(archive, file, [text], true)
    })
  })
  server.get('/v1/files', async (request) => {
    const { purpose, order, ...page } = checked(filesQuery, request.query)
    const all = (await archive.list('file', senderOf(request))).map((body) => JSON.parse(body) as FileRecord)
    const files = purpose ? all.filter((file) => file.purpose === purpose) : all
    return pageOf(order === 'asc' ? files.reverse() : files, page)
  })
  server.get('/v1/files/:id', async (request: WithId) => fileOf(request))
  server.get('/v1/files/:id/content', async (request: WithId, reply) => {
    const file = await fileOf(request)
    return reply
      .header('content-length', file.bytes)
      .type('application/jsonl')
      .send(Readable.from(contentOf(archive, file), { objectMode: false }))
  })
  server.delete('/v1/files/:id', async (request: WithId) => {
    const { id } = await fileOf(request)
    const user = (await openBatches(archive, senderOf(request))).find((batch) => batch.input_file_id === id)
    if (user)
      throw new MeshError(Code.FAILED_PRECONDITION, `Batch ${user.id} works on file ${id}: cancel it, or wait for it.`)
    await archive.remove(id)
    return { id, object: 'file', deleted: true }
  })
}

const create = async (archive: Archive, body: unknown, tenant: string): Promise<Batch> => {
  const asked = checked(batchBody, body)
  const { input_file_id: id } = asked
  const file = await findFile(archive, id, tenant)
  if (!file) throw missing('file', id, 'input_file_id')
  const batch = openBatch(newId('batch_'), asked, nowSeconds())
  if (file.expires_at < batch.expires_at)
    throw new MeshError(Code.FAILED_PRECONDITION, `File ${id} expires before this batch would: upload it again.`, {
      param: 'input_file_id',
    })
  const item = { id: batch.id, kind: 'batch', tenant, state: 'open', expiresAtMs: null } as const
  if (!(await archive.add({ ...item, body: JSON.stringify(batch) }, true))) throw archiveFull()
  return batch
}

const find = async (archive: Archive, id: string, tenant: string): Promise<{ batch: Batch; version: number }> => {
  const found = await archive.find(id)
  if (found?.kind !== 'batch' || found.tenant !== tenant) throw missing('batch', id)
  return { batch: JSON.parse(found.body) as Batch, version: found.version }
}

const cancel = async (archive: Archive, id: string, tenant: string): Promise<Batch> => {
  for (;;) {
    const { batch, version } = await find(archive, id, tenant)
    const next = advance(batch, { kind: 'cancel' }, nowSeconds())
    if (next === batch) return batch
    // A result may have come in between.
    if ((await archive.change(id, changeTo(version, next))) === 'changed') return next
  }
}

/** /v1/batches: whichever gateway takes a batch in, any tells of it. */
export const addBatches = (server: FastifyInstance, archive: Archive): void => {
  server.post('/v1/batches', async (request) => create(archive, request.body, senderOf(request)))
  server.get('/v1/batches', async (request) => {
    const bodies = await archive.list('batch', senderOf(request))
    return pageOf(
      bodies.map((body) => JSON.parse(body) as Batch),
      checked(pageQuery, request.query),
    )
  })
  server.get('/v1/batches/:id', async (request: WithId) => {
    const { batch } = await find(archive, request.params.id, senderOf(request))
    return batch
  })
  server.post('/v1/batches/:id/cancel', async (request: WithId) =>
    cancel(archive, request.params.id, senderOf(request)),
  )
}
