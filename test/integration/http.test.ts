import { createHash } from 'node:crypto'
import type OpenAI from 'openai'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { eos } from '../support/alphabet.ts'
import { type Api, bodyOf, eventsOf, openApi, openReader, type Reader } from '../support/api.ts'
import { requestOf } from '../support/local.ts'

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

describe('a completion', () => {
  it('comes whole', async () => {
    const { client } = await open()
    const answer = await client.completions.create({ model: 'alphabet', prompt: 'wx', max_tokens: 9 })
    expect(answer).toMatchObject({
      object: 'text_completion',
      model: 'alphabet',
      choices: [{ index: 0, text: 'yzé€ab', finish_reason: 'length', logprobs: null }],
      usage: { prompt_tokens: 3, completion_tokens: 9, total_tokens: 12, prompt_tokens_details: { cached_tokens: 0 } },
    })
    expect(answer.id).toMatch(/^cmpl-/)
    expect(answer.system_fingerprint).toMatch(/^fp_[0-9a-f]{16}$/)
  })

  it('tells how much of its prompt was known, and says the same', async () => {
    const { client } = await open({ served: reader.endless })
    const body = { model: 'alphabet', prompt: 'said before '.repeat(20), max_tokens: 8 }
    const first = await client.completions.create(body)
    const second = await client.completions.create(body)
    expect(first.usage?.prompt_tokens_details?.cached_tokens).toBe(0)
    expect(second.usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThanOrEqual(128)
    expect(second.choices).toEqual(first.choices)
  })

  it('streams what it would say whole', async () => {
    const { client } = await open()
    const body = { model: 'alphabet', prompt: ['z', 'x'], n: 2, max_tokens: 6, logprobs: 1, echo: true }
    const whole = await client.completions.create(body)
    const texts = ['', '', '', '']
    const offsets: number[][] = [[], [], [], []]
    for await (const { choices } of await client.completions.create({ ...body, stream: true }))
      for (const { index, text, logprobs } of choices) {
        texts[index] += text
        offsets[index].push(...(logprobs?.text_offset ?? []))
      }
    expect(texts).toEqual(whole.choices.map(({ text }) => text))
    expect(offsets).toEqual(whole.choices.map(({ logprobs }) => logprobs?.text_offset))
    expect(texts).toEqual(['zé€a', 'zé€a', 'xyzé\ufffd', 'xyzé\ufffd'])
    // Each byte of a character stands where the character will.
    expect(offsets[0]).toEqual([0, 0, 1, 1, 2, 2, 2, 3])
    expect(offsets[2]).toEqual([0, 0, 1, 2, 3, 3, 4, 4])
  })

  it('has an event per token, with its index for an id, and ends with usage and [DONE]', async () => {
    const { post } = await open()
    const body = { prompt: 'abc', max_tokens: 4, stream: true, stream_options: { include_usage: true } }
    const response = await post('/v1/completions', body)
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
    const events = await eventsOf(response)
    expect(events.map(({ id }) => id)).toEqual(['0', '1', '2', '3', undefined, undefined])
    expect(events.pop()?.data).toBe('[DONE]')
    const chunks = events.map(({ data }) => JSON.parse(data))
    expect(chunks.map(({ choices }) => choices[0]?.text ?? null)).toEqual(['d', 'e', 'f', 'g', null])
    expect(chunks.map(({ usage }) => usage?.completion_tokens ?? usage)).toEqual([null, null, null, null, 4])
    expect(new Set(chunks.map(({ id, created }) => `${id} ${created}`)).size).toBe(1)
  })

  it('ends before a stop string, and the engine with it', async () => {
    const { client } = await open({ served: reader.endless })
    const body = { model: '', prompt: 'a', max_tokens: 500_000, stop: ['efg', 'ef'] }
    const answer = await client.completions.create(body)
    expect(answer.choices[0]).toMatchObject({ text: 'bcd', finish_reason: 'stop' })
    expect(answer.usage?.completion_tokens).toBe(5)
    await expect.poll(() => reader.local.counts().running).toBe(0)
  })

  it('gives the text back that was held for a stop string which never came', async () => {
    const { client } = await open()
    const body = { model: '', prompt: 'a', max_tokens: 6, stop: ['fgx', 'bcdefgx'] }
    const answer = await client.completions.create(body)
    expect(answer.choices[0]).toMatchObject({ text: 'bcdefg', finish_reason: 'length' })
  })

  it('ends with a stop id, which is no text but counts', async () => {
    const { post } = await open()
    const seven = '7'.charCodeAt(0)
    const body = { prompt: [seven], max_tokens: 50, return_token_ids: true, logits_sha256: true, seed: 1 }
    const answer = await bodyOf(await post('/v1/completions', body))
    expect(answer.choices[0]).toMatchObject({
      text: '89',
      finish_reason: 'stop',
      token_ids: [seven + 1, seven + 2, eos],
      prompt_token_ids: [seven],
    })
    const { digests } = await reader.local.generate(requestOf([seven], 50, { stopIds: [eos] }))
    expect(digests).toHaveLength(3)
    const all = createHash('sha256')
      .update(Buffer.from(digests.join(''), 'hex'))
      .digest('hex')
    expect(answer.choices[0].logits_sha256).toBe(all)
    expect(answer.usage.completion_tokens).toBe(3)
  })

  it('of a model without tokenizer is ids', async () => {
    const { post } = await open({ served: { ...reader.served, tokenizer: null } })
    const answer = await bodyOf(await post('/v1/completions', { prompt: [48, 49], max_tokens: 3, logprobs: 0 }))
    expect(answer.choices[0]).toMatchObject({
      text: '',
      token_ids: [50, 51, 52],
      logprobs: { tokens: ['token_id:50', 'token_id:51', 'token_id:52'] },
    })
    const refused = await post('/v1/completions', { prompt: 'a' })
    expect(refused.status).toBe(400)
  })
})

describe('a chat', () => {
  it('comes whole and streams the same', async () => {
    const { client } = await open()
    const body: OpenAI.ChatCompletionCreateParamsNonStreaming = {
      model: 'alphabet',
      messages: [{ role: 'user', content: 'yz' }],
      max_tokens: 6,
      logprobs: true,
      top_logprobs: 1,
    }
    const whole = await client.chat.completions.create(body)
    expect(whole).toMatchObject({ object: 'chat.completion', usage: { prompt_tokens: 2, completion_tokens: 6 } })
    expect(whole.choices[0]).toMatchObject({ finish_reason: 'length', message: { role: 'assistant', content: 'é€a' } })
    const content = whole.choices[0].logprobs?.content ?? []
    expect(content).toHaveLength(6)
    expect(content[5]).toMatchObject({ token: 'a', bytes: [97], top_logprobs: [{ token: 'a' }] })
    expect(content[5].logprob).toBe(content[5].top_logprobs[0].logprob)
    expect(content[5].logprob).toBeGreaterThan(-0.01)
    expect(content[0]).toMatchObject({ token: '\ufffd', bytes: [0xc3] })

    const streamed = client.chat.completions.stream({ ...body, stream: true })
    const final = await streamed.finalChatCompletion()
    expect(final.choices[0].message.content).toBe('é€a')
    expect(final.choices[0].logprobs?.content).toEqual(content)
  })

  it('begins a stream with the role', async () => {
    const { post } = await open()
    const body = { messages: [{ role: 'user', content: 'a' }], max_tokens: 1, stream: true }
    const events = await eventsOf(await post('/v1/chat/completions', body))
    expect(JSON.parse(events[0].data).choices[0].delta).toEqual({ role: 'assistant', content: '' })
    expect(JSON.parse(events[1].data)).toMatchObject({
      object: 'chat.completion.chunk',
      choices: [{ delta: { content: 'b' }, finish_reason: 'length' }],
    })
  })

  it('needs a template', async () => {
    const { client } = await open({ served: { ...reader.served, chat: null } })
    const asked = client.chat.completions.create({ model: 'alphabet', messages: [{ role: 'user', content: 'a' }] })
    await expect(asked).rejects.toMatchObject({ status: 400, param: 'messages' })
  })
})

describe('the other routes', () => {
  it('name the model', async () => {
    const { client } = await open()
    const [model] = (await client.models.list()).data
    expect(model).toMatchObject({ id: 'alphabet', object: 'model', max_model_len: 64, kind: 'decoder' })
    expect(await client.models.retrieve('alphabet')).toEqual(model)
  })

  it('turn text into ids and back', async () => {
    const { post } = await open({ served: { ...reader.served, chat: null } })
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
    expect(text).toContain('expertmesh_generation_tokens_total{model_name="alphabet"} 5')
    expect(text).toContain('expertmesh_prompt_tokens_total{model_name="alphabet"} 3')
    expect(text).toContain('expertmesh_time_to_first_token_seconds_count{model_name="alphabet"} 1')
    expect(text).toContain('expertmesh_inter_token_latency_seconds_count{model_name="alphabet"} 4')
    expect(text).toContain('expertmesh_e2e_request_latency_seconds_count{model_name="alphabet"} 1')
    expect(await (await fetch(`${url}/version`)).json()).toEqual({ version: '1.2.3' })
  })
})

describe('a reader', () => {
  it('who comes back within the grace it asked for goes on behind its last event', async () => {
    const { url } = await open({ served: reader.endless })
    const leave = new AbortController()
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: 'a', max_tokens: 600, stream: true, reconnect_grace_seconds: 60 }),
      signal: leave.signal,
    })
    const first = new TextDecoder().decode((await response.body?.getReader().read())?.value)
    const last = Number([...first.matchAll(/^id: (\d+)$/gm)].at(-1)?.[1] ?? -1)
    leave.abort()
    const id = response.headers.get('x-request-id')
    const headers = last < 0 ? {} : { 'last-event-id': String(last) }
    const rest = await eventsOf(await fetch(`${url}/v1/requests/${id}/stream`, { headers }))
    expect(rest.pop()?.data).toBe('[DONE]')
    expect(rest.map((event) => Number(event.id))).toEqual(Array.from({ length: 599 - last }, (_, at) => last + 1 + at))
    const whole = await eventsOf(await fetch(`${url}/v1/requests/cmpl-${id}/stream`))
    expect(whole.slice(last + 1, -1)).toEqual(rest)
  })

  it('who sends a request twice under one key gets one answer', async () => {
    const { post } = await open()
    const body = { prompt: 'abc', max_tokens: 20, temperature: 1 }
    const send = () => post('/v1/completions', body, { 'idempotency-key': 'once' })
    const [first, second] = await Promise.all([send(), send()])
    expect(await second.json()).toEqual(await first.json())
    const other = await post('/v1/completions', { ...body, n: 2 }, { 'idempotency-key': 'once' })
    expect([other.status, (await bodyOf(other)).error.message]).toEqual([400, expect.stringContaining('another body')])
    expect((await post('/v1/completions', body, { 'idempotency-key': 'k'.repeat(256) })).status).toBe(400)
  })
})
