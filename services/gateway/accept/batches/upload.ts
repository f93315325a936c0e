import type { FastifyInstance } from 'fastify'
import { invalid } from '../../../../shared/errors.ts'

/** Largest file of a batch: reading its form holds up this thread, some 4 ms per MiB. What the form may add around it. */
export const fileMaxBytes = 32 * 2 ** 20
const formMaxBytes = 64 * 2 ** 10
const filenameCharactersMax = 255

export type Upload = { filename: string; text: string; bytes: number }

/** Takes multipart forms on this server's routes as they are, up to the size of one file. */
export const acceptForms = (server: FastifyInstance): void => {
  server.addContentTypeParser(
    'multipart/form-data',
    { parseAs: 'buffer', bodyLimit: fileMaxBytes + formMaxBytes },
    (_, body, done) => done(null, body),
  )
}

const formOf = async (body: unknown, contentType: string): Promise<FormData> => {
  try {
    if (!Buffer.isBuffer(body)) throw new TypeError('no form')
    return await new Response(body, { headers: { 'content-type': contentType } }).formData()
  } catch (cause) {
    throw invalid(`The body must be multipart/form-data with "purpose" and "file": ${(cause as Error).message}.`)
  }
}

/**
 * The file of POST /v1/files, UTF-8 text of at most fileMaxBytes.
 * @throws MeshError INVALID_ARGUMENT naming the field at fault.
 */
export const readUpload = async (body: unknown, contentType: string): Promise<Upload> => {
  const form = await formOf(body, contentType)
  const [purpose, file] = [form.get('purpose'), form.get('file')]
  if (purpose !== 'batch') throw invalid('purpose must be "batch": files are kept for batches only.', 'purpose')
  if (!(file instanceof Blob)) throw invalid('file must be a file of JSON lines.', 'file')
  if (file.size > fileMaxBytes) throw invalid(`file has more than ${fileMaxBytes} bytes: send several batches.`, 'file')
  const bytes = Buffer.from(await file.arrayBuffer())
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    // Without the mark that some editors put before the text.
    return { filename: nameOf(file), text, bytes: Buffer.byteLength(text) }
  } catch {
    throw invalid('file must be UTF-8 text.', 'file')
  }
}

const nameOf = (file: Blob & { name?: string }): string => (file.name ?? 'file').slice(0, filenameCharactersMax)
