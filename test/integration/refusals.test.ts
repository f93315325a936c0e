import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type Api, bodyOf, eventsOf, openApi, openReader, type Reader } from '../support/api.ts'

let reader: Reader
beforeAll(async () => {
  reader = await openReader()
})
afterAll(() => reader.close())

const closing: Api[] = []
afterEach(async () => {
  for (const api of closing.splice(0)) await api.close()
})
const open = async (options: Parameters<typeof openApi>[1] = {}): Promise<Api> => {
  const api = await openApi(reader, options)
  closing.push(api)
  return api
}

/** More tokens than the engine can make while a test runs. */
const endless = { model: 'alphabet', max_tokens: 500_000 }
const idle = () => expect.poll(() => reader.local.counts()).toMatchObject({ running: 0, waiting: 0 })

describe('a client that goes away', () => {
  it.each([true, false])('cancels its request (stream: %s)', async (stream) => {
    const { client, metrics } = await open({ served: reader.endless })
    const leave = new AbortController()
    const body = { ...endless, prompt: ['abc', 'def'] }
    if (stream) {
      const answer = await client.completions.create({ ...body, stream }, { signal: leave.signal })
      for await (const _ of answer) break
      leave.abort()
    } else {
      const answer = client.completions.create({ ...body, stream }, { signal: leave.signal })
      await expect.poll(() => reader.local.counts().running).toBe(2)
      leave.abort()
      await expect(answer).rejects.toThrow('aborted')
    }
    await idle()
    const text = await metrics.registry.metrics()
    expect(text).toMatch(/expertmesh_request_success_total{finished_reason="cancelled".*} 2/)
    expect(text).toMatch(/expertmesh_num_requests_running{.*} 0/)
    expect(text).toMatch(/expertmesh_num_requests_waiting{.*} 0/)
  })
})

describe('overload', () => {
  it('is 429 with Retry-After, and leaves no part of a refused request behind', async () => {
    const { post, client } = await open({ queueLimit: 1, room: 1, served: reader.endless })
    const response = await post('/v1/completions', { ...endless, prompt: ['a', 'b', 'c', 'd'] })
    expect(response.status).toBe(429)
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await bodyOf(response)).error).toMatchObject({ type: 'rate_limit_error', code: 'rate_limit_exceeded' })
    await idle()
    const next = await client.completions.create({ model: '', prompt: 'ab', max_tokens: 2 })
    expect(next.choices[0].text).toBe('cd')
  })

  it('is told before the request is read', async () => {
    const { post, intake } = await open({ queueLimit: 1, room: 0, served: reader.endless })
    const waits = await post('/v1/completions', { ...endless, prompt: 'a', stream: true })
    expect(await intake.waiting()).toBe(1)
    expect((await post('/v1/completions', 'no JSON')).status).toBe(429)
    expect((await post('/v1/chat/completions', 'no JSON')).status).toBe(429)
    await waits.body?.cancel()
    await expect.poll(() => intake.waiting()).toBe(0)
    expect((await post('/v1/completions', 'no JSON')).status).toBe(400)
  })
})

describe('experts that nobody holds', () => {
  afterEach(() => reader.local.hold(true))

  it('are a status before the headers, and no harm to the next request', async () => {
    const { client } = await open()
    reader.local.hold(false)
    const asked = client.completions.create({ model: '', prompt: 'a' })
    await expect(asked).rejects.toMatchObject({
      status: 503,
      type: 'server_error',
      message: expect.stringMatching(/no worker holds \(layer 0, expert \d\)/),
    })
    reader.local.hold(true)
    const next = await client.completions.create({ model: '', prompt: 'ab', max_tokens: 2 })
    expect(next.choices[0].text).toBe('cd')
  })

  it('are an event after them, and there is no [DONE]', async () => {
    const { post, client } = await open({ served: reader.endless })
    const response = await post('/v1/completions', { ...endless, prompt: 'a', stream: true })
    const events = await eventsOf(response, () => reader.local.hold(false))
    const chunks = events.map(({ data }) => JSON.parse(data))
    expect(chunks[0]).toMatchObject({ choices: [{ text: 'b' }] })
    expect(chunks.at(-1)).toMatchObject({
      error: { type: 'server_error', message: expect.stringContaining('no worker holds (layer 0, expert') },
    })
    expect(chunks.filter(({ error }) => error)).toHaveLength(1)

    reader.local.hold(true)
    const read = async () => {
      const stream = await client.completions.create({ ...endless, prompt: 'a', stream: true })
      for await (const _ of stream) reader.local.hold(false)
    }
    await expect(read()).rejects.toThrow('no worker holds (layer 0, expert')
    await idle()
  })
})

describe('what is wrong with a request', () => {
  it('is told in one schema, whoever finds it', async () => {
    const { post, url } = await open()
    const text = 'text/plain'
    const cases: [Promise<Response>, number, string | null][] = [
      [post('/v1/completions', '{"prompt": '), 400, null],
      [post('/v1/completions', ''), 400, null],
      [post('/v1/completions', 'a', { 'content-type': text }), 415, 'unsupported_media_type'],
      [post('/v1/completions', { prompt: 'x'.repeat(100) }), 400, 'context_length_exceeded'],
      [post('/v1/completions', { prompt: 'a', model: 'x' }), 404, 'model_not_found'],
      [post('/v1/completions', { prompt: 'a', max_tokens: 0 }), 400, null],
      [post('/v1/nothing', {}), 404, 'unknown_url'],
      [fetch(`${url}/v1/models/x/y`), 404, 'model_not_found'],
      [fetch(`${url}/v1/completions`), 404, 'unknown_url'],
      [fetch(`${url}/%`), 400, null],
    ]
    for (const [answer, status, code] of cases) {
      const response = await answer
      const { error } = await bodyOf(response)
      expect([response.status, error.code]).toEqual([status, code])
      expect(error.message).toMatch(/[a-z]/)
      expect(error.type).toBe('invalid_request_error')
      expect(response.headers.get('x-request-id')).toBeTruthy()
    }
  })

  /** Sent in pieces, so that nothing tells its length beforehand. */
  const pieces = function* () {
    for (let i = 0; i < 64; i++) yield Buffer.alloc(2 ** 20, 'x')
  }
  it.each([
    ['told beforehand', () => 'x'.repeat(64 * 2 ** 20)],
    ['found on the way', () => ReadableStream.from(pieces())],
  ])('is 413 for a body of 64 MB, its length %s, and the next request is served', async (_, body) => {
    const { post, url } = await open()
    const headers = { 'content-type': 'application/json' }
    const request = { method: 'POST', headers, body: body(), duplex: 'half' } as RequestInit
    const response = await fetch(`${url}/v1/completions`, request)
    expect(response.status).toBe(413)
    expect((await bodyOf(response)).error).toMatchObject({ type: 'invalid_request_error', code: 'body_too_large' })
    expect((await post('/v1/completions', { prompt: 'a', max_tokens: 1 })).status).toBe(200)
  })

  it('does not tell what broke inside', async () => {
    const broken = {
      ...reader.served.tokenizer,
      encode: () => {
        throw new TypeError('secret')
      },
    }
    const { post } = await open({ served: { ...reader.served, tokenizer: broken } as typeof reader.served })
    const response = await post('/v1/completions', { prompt: 'a' })
    expect(response.status).toBe(500)
    expect(await response.text()).not.toContain('secret')
  })
})

describe('a token', () => {
  it('is asked for everywhere but by probes', async () => {
    const { url, client, post } = await open({ token: 'open sesame' })
    for (const path of ['/v1/models', '/metrics', '/version', '/nowhere']) {
      const response = await fetch(url + path)
      expect(response.status).toBe(401)
      expect((await bodyOf(response)).error).toMatchObject({ type: 'authentication_error', code: 'invalid_api_key' })
    }
    const prompt = { prompt: 'a' }
    expect((await post('/v1/completions', prompt)).status).toBe(401)
    for (const authorization of ['Bearer open', 'open sesame', 'Bearer open sesamf', 'Bearer open sesame!', ''])
      expect((await post('/v1/completions', prompt, { authorization })).status).toBe(401)
    for (const path of ['/livez', '/readyz', '/health']) expect((await fetch(url + path)).status).toBe(200)
    expect((await client.models.list()).data).toHaveLength(1)
  })
})
