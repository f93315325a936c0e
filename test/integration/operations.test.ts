import { describe, expect, it } from 'vitest'
import { bodyOf, eventsOf, open } from '../support/front.ts'
import { bytes, parrot } from '../support/parrot.ts'

describe('an engine that fails', () => {
  const intake = {
    submit: async (request: { id: string }, onEvent: (event: never) => void) => {
      const tell = (event: object) => onEvent({ id: request.id, ...event } as never)
      tell({ kind: 'token', index: 0, token: 97, logprob: null, digest: null, finish: null })
      tell({ kind: 'failed', code: 14, message: 'no worker holds layer 3, expert 7' })
    },
    cancel: () => {},
  }

  it('is a status before the headers', async () => {
    const { client } = await open({ intake })
    const asked = client.completions.create({ model: '', prompt: 'a' })
    await expect(asked).rejects.toMatchObject({ status: 503, type: 'server_error' })
  })

  it('is an event after them, and there is no [DONE]', async () => {
    const { post, client } = await open({ intake })
    const events = await eventsOf(await post('/v1/completions', { prompt: 'a', stream: true }))
    expect(events.map(({ data }) => JSON.parse(data))).toMatchObject([
      { choices: [{ text: 'a' }] },
      { error: { type: 'server_error', message: 'no worker holds layer 3, expert 7' } },
    ])
    const read = async () => {
      for await (const _ of await client.completions.create({ model: '', prompt: 'a', stream: true }));
    }
    await expect(read()).rejects.toThrow('expert 7')
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

  it('is 413 for a body of 64 MB, and the next request is served', async () => {
    const { post } = await open()
    const response = await post('/v1/completions', { prompt: 'x'.repeat(64 * 2 ** 20) })
    expect(response.status).toBe(413)
    expect((await bodyOf(response)).error).toMatchObject({ type: 'invalid_request_error', code: 'body_too_large' })
    expect((await post('/v1/completions', { prompt: 'a', max_tokens: 1 })).status).toBe(200)
  })

  it('does not tell what broke inside', async () => {
    const broken = {
      ...bytes,
      encode: () => {
        throw new TypeError('secret')
      },
    }
    const { post } = await open({ served: { ...parrot, tokenizer: broken } })
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
    for (const wrong of ['Bearer open', 'open sesame', 'Bearer open sesame ', ''])
      expect(
        (
          await post(
            '/v1/completions',
            { prompt: 'a' },
            wrong.trim() === 'Bearer open sesame' ? {} : { authorization: wrong },
          )
        ).status,
      ).toBe(401)
    for (const path of ['/livez', '/readyz', '/health']) expect((await fetch(url + path)).status).toBe(200)
    expect((await client.models.list()).data).toHaveLength(1)
  })
})

describe('the other routes', () => {
  it('name the model', async () => {
    const { client } = await open()
    const [model] = (await client.models.list()).data
    expect(model).toMatchObject({ id: 'parrot', object: 'model', max_model_len: 64, precision: 'fp32' })
    expect(await client.models.retrieve('parrot')).toEqual(model)
  })

  it('turn text into ids and back', async () => {
    const { post } = await open()
    const tokens = await (await post('/tokenize', { prompt: 'aé', return_token_strs: true })).json()
    expect(tokens).toEqual({
      count: 4,
      max_model_len: 64,
      tokens: [256, 97, 195, 169],
      token_strs: ['<s>', 'a', '\ufffd', '\ufffd'],
    })
    expect(await (await post('/tokenize', { prompt: 'a', add_special_tokens: false })).json()).toMatchObject({
      tokens: [97],
    })
    expect(await (await post('/detokenize', { tokens: [97, 195, 169] })).json()).toEqual({ prompt: 'aé' })
    for (const [path, body] of [
      ['/tokenize', {}],
      ['/tokenize', { messages: [{ role: 'user', content: 'a' }] }],
      ['/detokenize', { tokens: [258] }],
      ['/detokenize', { tokens: 'a' }],
    ] as const)
      expect((await post(path, body)).status).toBe(400)
  })

  it('say which experts nobody holds', async () => {
    let missing = [{ layer: 1, expert: 5 }]
    const { url } = await open({ coverage: () => missing })
    const response = await fetch(`${url}/readyz`)
    expect([response.status, await response.json()]).toEqual([503, { status: 'unavailable', missing }])
    expect((await fetch(`${url}/livez`)).status).toBe(200)
    expect((await fetch(`${url}/health`)).status).toBe(503)
    missing = []
    expect((await fetch(`${url}/readyz`)).status).toBe(200)
  })

  it('count', async () => {
    const { url, client } = await open()
    await client.completions.create({ model: '', prompt: 'ab', max_tokens: 5 })
    const text = await (await fetch(`${url}/metrics`)).text()
    expect(text).toContain('expertmesh_generation_tokens_total{model_name="parrot"} 5')
    expect(text).toContain('expertmesh_prompt_tokens_total{model_name="parrot"} 3')
    expect(text).toContain('expertmesh_time_to_first_token_seconds_count{model_name="parrot"} 1')
    expect(text).toContain('expertmesh_inter_token_latency_seconds_count{model_name="parrot"} 4')
    expect(text).toContain('expertmesh_e2e_request_latency_seconds_count{model_name="parrot"} 1')
    expect(await (await fetch(`${url}/version`)).json()).toEqual({ version: '1.2.3' })
  })
})
