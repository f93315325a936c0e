import type { AddressInfo } from 'node:net'
import Fastify from 'fastify'
import OpenAI, { toFile } from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  acceptForms,
  fileMaxBytes,
  readUpload,
  type Upload,
} from '../../../../../services/gateway/accept/batches/upload.ts'

/** A server that keeps what it was sent. */
const server = Fastify()
const kept: Upload[] = []
acceptForms(server)
server.post('/v1/files', async (request) => {
  kept.push(await readUpload(request.body, request.headers['content-type'] ?? ''))
  return { id: 'file-1', object: 'file' }
})

let client: OpenAI
beforeAll(async () => {
  await server.listen({ host: '127.0.0.1', port: 0 })
  const { port } = server.server.address() as AddressInfo
  client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'none', maxRetries: 0 })
})
afterAll(() => server.close())

const form = (entries: Record<string, string | Blob>): Promise<Upload> => {
  const data = new FormData()
  for (const [name, value] of Object.entries(entries)) data.append(name, value)
  const sent = new Response(data)
  return sent.arrayBuffer().then((body) => readUpload(Buffer.from(body), sent.headers.get('content-type')!))
}

describe('a file', () => {
  it('sent by the official client comes as it is', async () => {
    const text = '{"custom_id":"é"}\r\n\n--x\n'
    const file = await toFile(Buffer.from(text), 'in put.jsonl')
    expect(await client.files.create({ file, purpose: 'batch' })).toMatchObject({ id: 'file-1' })
    expect(kept).toEqual([{ filename: 'in put.jsonl', text, bytes: Buffer.byteLength(text) }])
  })

  it.each([
    [{ purpose: 'batch' }, 'file must be a file'],
    [{ purpose: 'batch', file: 'text' }, 'file must be a file'],
    [{ purpose: 'fine-tune', file: new Blob(['{}']) }, 'purpose must be "batch"'],
    [{ file: new Blob(['{}']) }, 'purpose must be "batch"'],
    [{ purpose: 'batch', file: new Blob([Buffer.from([0xff])]) }, 'UTF-8'],
  ])('%# is refused by its field', async (entries, sentence) => {
    await expect(form(entries)).rejects.toThrow(sentence)
  })

  it('of the largest size is taken, one byte more is refused', async () => {
    const of = (bytes: number) => form({ purpose: 'batch', file: new Blob([Buffer.alloc(bytes, 'a')]) })
    expect((await of(fileMaxBytes)).bytes).toBe(fileMaxBytes)
    await expect(of(fileMaxBytes + 1)).rejects.toThrow('more than')
  })

  it.each([
    ['{}', 'application/json'],
    ['', 'multipart/form-data'],
    ['--b\r\nbroken', 'multipart/form-data; boundary=b'],
  ])('%j as %s is no form', async (body, contentType) => {
    await expect(readUpload(Buffer.from(body), contentType)).rejects.toThrow('multipart/form-data')
  })
})
