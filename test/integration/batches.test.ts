import OpenAI, { toFile } from 'openai'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { keepSeconds } from '../../services/gateway/accept/batches/archive.ts'
import { advance, type Batch, openBatch } from '../../services/gateway/accept/batches/batch.ts'
import { changeTo } from '../../services/gateway/accept/batches/claim.ts'
import { fileMaxBytes } from '../../services/gateway/accept/batches/upload.ts'
import { tenantOf } from '../../services/gateway/accept/requests.ts'
import { type Api, bodyOf, inProcess, openApi, openReader, type Reader } from '../support/api.ts'
import { createBatch, lineOf, resultsOf, untilEnded, upload } from '../support/batches.ts'
import { idle, setUpGateways } from '../support/gateways.ts'
import { describeRedis } from '../support/redis.ts'

const endless = 500_000
const short = (at: number) => ({
  prompt: 'abcdefgh'[at % 8],
  max_tokens: 1 + (at % 9),
  logits_sha256: true,
  n: 1 + (at % 2),
})

/** Every line of a batch at one gateway, downloaded at another, against the answers to requests of their own. */
const answersAll = async (at: Api, other: Api): Promise<void> => {
  const bodies = Array.from({ length: 20 }, (_, line) => short(line))
  const { id, ...created } = await createBatch(
    at.client,
    bodies.map((body, line) => lineOf(`line ${line}`, body)),
  )
  expect(created).toMatchObject({ object: 'batch', metadata: { of: 'tests' }, endpoint: '/v1/completions' })
  const batch = await untilEnded(other.client, id)
  expect(batch).toMatchObject({ status: 'completed', request_counts: { total: 20, completed: 20, failed: 0 } })
  expect(batch.error_file_id).toBe(undefined)
  const results = await resultsOf(other.client, batch.output_file_id)
  expect(results.map(({ custom_id }) => custom_id)).toEqual(bodies.map((_, line) => `line ${line}`))
  for (const [line, { response }] of results.entries()) {
    const direct = await bodyOf(await at.post('/v1/completions', bodies[line]))
    expect([response?.status_code, response?.body.choices]).toEqual([200, direct.choices])
  }
  const file = await other.client.files.retrieve(batch.output_file_id ?? '')
  expect(file).toMatchObject({ object: 'file', purpose: 'batch_output', filename: `${id}_output.jsonl` })
  const { data } = await other.client.batches.list()
  expect(data[0]).toEqual(batch)
}

describe('batches of one process', () => {
  let reader: Reader
  const opened: Api[] = []
  beforeAll(async () => {
    reader = await openReader()
  })
  afterAll(() => reader?.close())
  afterEach(async () => {
    for (const { close } of opened.splice(0)) await close()
  })
  const open = async (options: Parameters<typeof openApi>[1] = {}): Promise<Api> => {
    const api = await openApi(reader, options)
    opened.push(api)
    return api
  }

  it('answer every line as a request of its own', async () => {
    const api = await open()
    await answersAll(api, api)
    const text = await (await fetch(`${api.url}/metrics`)).text()
    expect(text).toMatch(/expertmesh_batch_requests_total\{outcome="completed",.*\} 20/)
  })

  it('answer chats', async () => {
    const { client } = await open()
    const url = '/v1/chat/completions'
    const body = { messages: [{ role: 'user', content: 'uvw' }], max_tokens: 3 }
    const { id } = await createBatch(client, [lineOf('a', body, url)], url)
    const batch = await untilEnded(client, id)
    const [{ response }] = await resultsOf(client, batch.output_file_id)
    expect(response?.body).toMatchObject({ object: 'chat.completion', choices: [{ message: { content: 'xyz' } }] })
  })

  it('fail with the errors of their lines, and answer none', async () => {
    const { client } = await open()
    const good = lineOf('a', short(0))
    const wrong = [good, '{', lineOf('b', { max_tokens: 0, prompt: 'a' }), good, lineOf('c', {}, '/v1/embeddings')]
    const { id } = await createBatch(client, wrong)
    const batch = await untilEnded(client, id)
    expect(batch).toMatchObject({ status: 'failed', request_counts: { total: 0 } })
    expect(batch.errors?.data?.map(({ code, line, param }) => [code, line, param])).toEqual([
      ['invalid_json_line', 2, null],
      ['invalid_request', 3, 'max_tokens'],
      ['duplicate_custom_id', 4, 'custom_id'],
      ['mismatched_url', 5, 'url'],
    ])
    expect(batch.output_file_id).toBe(undefined)
  })

  it('tell of lines that failed in a file of their own', async () => {
    const api = await open()
    reader.local.hold(false)
    const { id } = await createBatch(api.client, [lineOf('a', short(1)), lineOf('b', short(2))])
    const batch = await untilEnded(api.client, id)
    reader.local.hold(true)
    expect(batch).toMatchObject({ status: 'completed', request_counts: { total: 2, completed: 0, failed: 2 } })
    expect(batch.output_file_id).toBe(undefined)
    const results = await resultsOf(api.client, batch.error_file_id)
    expect(results.map(({ custom_id }) => custom_id)).toEqual(['a', 'b'])
    for (const { response, error } of results)
      expect([response?.status_code, response?.body.error, error]).toEqual([
        503,
        { message: expect.any(String), type: 'server_error', param: null, code: null },
        null,
      ])
  })

  it('expire with what was answered in their window', async () => {
    const store = inProcess()
    const { archives } = store
    const { client } = await open({ store, served: reader.endless })
    const file = await upload(client, [lineOf('a', { prompt: 'a', max_tokens: endless })])
    const body = { input_file_id: file.id, endpoint: '/v1/completions', completion_window: '24h' } as const
    const dayAgo = Math.floor(Date.now() / 1000) - 86_400
    const batch = openBatch('batch_late', body, dayAgo + 3)
    const tenant = tenantOf('Bearer none')
    const item = { id: batch.id, kind: 'batch', tenant, state: 'open', expiresAtMs: null } as const
    await archives.prompt.add({ ...item, body: JSON.stringify(batch) }, true)
    await expect.poll(() => reader.local.counts().running).toBe(1)
    expect(await untilEnded(client, batch.id)).toMatchObject({ status: 'expired', request_counts: { total: 1 } })
    const { error_file_id } = await client.batches.retrieve(batch.id)
    expect(await resultsOf(client, error_file_id)).toMatchObject([{ custom_id: 'a', error: { code: 'batch_expired' } }])
    await idle(reader)
  })

  it('are refused with what is wrong', async () => {
    const { client, url } = await open()
    const file = await upload(client, [lineOf('a', short(0))])
    const body = { input_file_id: file.id, endpoint: '/v1/completions', completion_window: '24h' } as const
    const refusal = async (asked: Promise<unknown>) => {
      const error = await asked.then(
        () => null,
        (thrown) => thrown,
      )
      expect(error).toBeInstanceOf(OpenAI.APIError)
      return [error.status, error.code, error.param]
    }
    expect(await refusal(client.batches.create({ ...body, endpoint: '/v1/embeddings' }))).toEqual([
      400,
      null,
      'endpoint',
    ])
    expect(await refusal(client.batches.create({ ...body, input_file_id: 'file-x' }))).toEqual([
      404,
      'file_not_found',
      'input_file_id',
    ])
    expect(await refusal(client.batches.retrieve('batch_x'))).toEqual([404, 'batch_not_found', null])
    expect(await refusal(client.batches.cancel(file.id))).toEqual([404, 'batch_not_found', null])
    expect(await refusal(client.files.retrieve('file-x'))).toEqual([404, 'file_not_found', null])
    expect(await refusal(client.batches.list({ after: 'batch_x' }))).toEqual([404, null, 'after'])
    const large = await toFile(Buffer.alloc(fileMaxBytes + 1, 'a'), 'large')
    expect(await refusal(client.files.create({ file: large, purpose: 'batch' }))).toEqual([400, null, 'file'])
    const larger = await toFile(Buffer.alloc(fileMaxBytes + 2 ** 20, 'a'), 'larger')
    expect(await refusal(client.files.create({ file: larger, purpose: 'batch' }))).toEqual([
      413,
      'body_too_large',
      null,
    ])
    expect(
      await refusal(client.files.create({ file: await toFile(Buffer.from('{}'), 'x'), purpose: 'vision' })),
    ).toEqual([400, null, 'purpose'])
    const form = new FormData()
    form.append('prompt', 'a')
    expect((await fetch(`${url}/v1/completions`, { method: 'POST', body: form })).status).toBe(415)
  })

  it('and their files belong to who sent them', async () => {
    const { client, url } = await open()
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'other', maxRetries: 0 })
    const batch = await createBatch(client, [lineOf('a', short(0))])
    const [file] = (await client.files.list()).data
    expect(file).toMatchObject({ purpose: 'batch', filename: 'lines.jsonl' })
    expect((file.expires_at ?? 0) - file.created_at).toBe(keepSeconds)
    for (const asked of [
      stranger.batches.retrieve(batch.id),
      stranger.batches.cancel(batch.id),
      stranger.files.retrieve(file.id),
      stranger.files.content(file.id),
      stranger.files.delete(file.id),
      stranger.batches.create({ input_file_id: file.id, endpoint: '/v1/completions', completion_window: '24h' }),
    ])
      await expect(asked).rejects.toThrow('404')
    expect([(await stranger.files.list()).data, (await stranger.batches.list()).data]).toEqual([[], []])
    await untilEnded(client, batch.id)
    expect((await client.files.list({ purpose: 'batch', order: 'asc' })).data).toEqual([file])
    expect(await client.files.delete(file.id)).toEqual({ id: file.id, object: 'file', deleted: true })
    await expect(client.files.content(file.id)).rejects.toThrow('404')
  })

  it('are listed in pages', async () => {
    const { client } = await open()
    const made = []
    for (let at = 0; at < 5; at++) made.unshift((await upload(client, [`${at}`])).id)
    const read = []
    for await (const { id } of client.files.list({ limit: 2 })) read.push(id)
    expect(read).toEqual(made)
  })
})

describeRedis('batches of gateways on one Redis', () => {
  const { reader, other, open, openStore, openByHand } = setUpGateways()

  it('are answered at one and told of at the other', async () => {
    const [a, b] = [await open(8), await open(8, { at: other() })]
    await answersAll(a, b)
  })

  it('go on at another gateway when theirs closes, each line answered once', async () => {
    const store = await openStore()
    const first = await openApi(reader(), { served: reader().endless, room: 4, store })
    const bodies = Array.from({ length: 12 }, (_, at) => ({ prompt: 'a', max_tokens: 200 + at, logits_sha256: true }))
    const { id } = await createBatch(
      first.client,
      bodies.map((body, at) => lineOf(`${at}`, body)),
    )
    await expect.poll(() => reader().local.counts().running).toBe(4)
    await first.close()
    const { client } = await open(4, { at: other() })
    const batch = await untilEnded(client, id)
    expect(batch.request_counts).toEqual({ total: 12, completed: 12, failed: 0 })
    const results = await resultsOf(client, batch.output_file_id)
    expect(results.map(({ custom_id }) => custom_id)).toEqual(bodies.map((_, at) => `${at}`))
  })

  it('leave the queue to others: a few lines wait in it, behind every request that is not of a batch', async () => {
    const front = await open(0, { batchSequences: 3 })
    await createBatch(
      front.client,
      Array.from({ length: 10 }, (_, at) => lineOf(`${at}`, short(0))),
    )
    await expect.poll(() => front.intake.waiting()).toBe(3)
    const response = await front.post('/v1/completions', { prompt: 'a', stream: true, max_tokens: 2, priority: 6 })
    const id = response.headers.get('x-request-id')
    const { positions } = (await (await fetch(`${front.url}/v1/requests/${id}`)).json()) as { positions: number[] }
    expect([positions, await front.intake.waiting()]).toEqual([[0], 4])
    await response.body?.cancel()
  })

  it('end what a gateway had begun that is gone, when they are cancelled meanwhile', async () => {
    const store = await openStore()
    const first = await openApi(reader(), { room: 0, store, batchSequences: 3 })
    const lines = Array.from({ length: 10 }, (_, at) => lineOf(`${at}`, short(2 * at)))
    const { id } = await createBatch(first.client, lines)
    const { archives, journal } = await openByHand()
    await expect.poll(() => journal.waiting()).toBe(3)
    await first.close()
    const found = await archives.prompt.find(id)
    const { version, batch } = { version: found?.version ?? 0, batch: JSON.parse(found?.body ?? '') as Batch }
    await archives.prompt.change(id, changeTo(version, advance(batch, { kind: 'cancel' }, batch.created_at)))
    expect(await journal.waiting()).toBe(3)
    const { client } = await open(0)
    expect(await untilEnded(client, id)).toMatchObject({ status: 'cancelled', request_counts: { total: 10 } })
    await expect.poll(() => journal.waiting()).toBe(0)
  })

  it('are cancelled at any gateway: what runs and what waits ends, and what was answered is kept', async () => {
    const [a, b] = [await open(0, { batchSequences: 3 }), await open(2, { at: other(), batchSequences: 3 })]
    const body = { prompt: 'a', max_tokens: endless }
    const lines = [lineOf('short', short(0)), ...Array.from({ length: 5 }, (_, at) => lineOf(`long ${at}`, body))]
    const { id } = await createBatch(a.client, lines)
    const counts = async () => (await b.client.batches.retrieve(id)).request_counts
    await expect.poll(counts, { timeout: 10_000 }).toEqual({ total: 6, completed: 1, failed: 0 })
    await expect.poll(() => other().local.counts().running).toBe(2)
    await expect(a.client.files.delete((await a.client.batches.retrieve(id)).input_file_id)).rejects.toThrow(id)
    expect(await b.client.batches.cancel(id)).toMatchObject({ status: 'cancelling' })
    expect(await untilEnded(a.client, id)).toMatchObject({ status: 'cancelled' })
    await idle(other())
    expect(await a.intake.waiting()).toBe(0)
    const { output_file_id, error_file_id } = await a.client.batches.retrieve(id)
    expect((await resultsOf(a.client, output_file_id)).map(({ custom_id }) => custom_id)).toEqual(['short'])
    expect((await resultsOf(b.client, error_file_id)).map(({ error }) => error?.code)).toEqual(
      Array.from({ length: 5 }, () => 'batch_cancelled'),
    )
    await expect(a.client.batches.cancel(id)).rejects.toThrow('cancelled')
  })
})
