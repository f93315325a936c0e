import { createHash } from 'node:crypto'
import type OpenAI from 'openai'
import { describe, expect, it, vi } from 'vitest'
import { bodyOf, eventsOf, open } from '../support/front.ts'
import { parrot } from '../support/parrot.ts'

describe('a completion', () => {
  it('comes whole', async () => {
    const { client } = await open()
    const body = { model: 'parrot', prompt: 'héllo', max_tokens: 9 }
    const answer = await client.completions.create(body)
    expect(answer).toMatchObject({
      object: 'text_completion',
      model: 'parrot',
      choices: [{ index: 0, text: 'hélloh\u{e9}', finish_reason: 'length', logprobs: null }],
      usage: { prompt_tokens: 7, completion_tokens: 9, total_tokens: 16, prompt_tokens_details: { cached_tokens: 1 } },
    })
    expect(answer.id).toMatch(/^cmpl-/)
    expect(answer.system_fingerprint).toMatch(/^fp_[0-9a-f]{16}$/)
  })

  it('streams what it would say whole', async () => {
    const { client } = await open()
    const body = { model: 'parrot', prompt: ['aé', 'b€'], n: 2, max_tokens: 10, logprobs: 1, echo: true }
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
    expect(texts[2]).toBe('b€b€b€b\ufffd')
    // Each byte of a character stands where the character will.
    expect(offsets[2]).toEqual([0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7])
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
    expect(chunks.map(({ choices }) => choices[0]?.text ?? null)).toEqual(['a', 'b', 'c', 'a', null])
    expect(chunks.map(({ usage }) => usage?.completion_tokens ?? usage)).toEqual([null, null, null, null, 4])
    expect(new Set(chunks.map(({ id, created }) => `${id} ${created}`)).size).toBe(1)
  })

  it('ends before a stop string, and the engine with it', async () => {
    const { client, bird } = await open()
    const answer = await client.completions.create({ model: '', prompt: 'abcdef', max_tokens: 50, stop: ['dea', 'de'] })
    expect(answer.choices[0]).toMatchObject({ text: 'abc', finish_reason: 'stop' })
    expect(answer.usage?.completion_tokens).toBe(5)
    expect(bird.cancelled).toHaveLength(1)
    expect(bird.running.size).toBe(0)
  })

  it('gives the text back that was held for a stop string which never came', async () => {
    const { client } = await open()
    const answer = await client.completions.create({ model: '', prompt: 'abc', max_tokens: 6, stop: ['bcx', 'bcabcx'] })
    expect(answer.choices[0]).toMatchObject({ text: 'abcabc', finish_reason: 'length' })
  })

  it('ends with a stop id, which is no text but counts', async () => {
    const { post } = await open()
    const body = { prompt: [97, 98, 257], max_tokens: 50, return_token_ids: true, logits_sha256: true, seed: 1 }
    const answer = await bodyOf(await post('/v1/completions', body))
    expect(answer.choices[0]).toMatchObject({
      text: 'ab',
      finish_reason: 'stop',
      token_ids: [97, 98, 257],
      prompt_token_ids: [97, 98, 257],
    })
    const digest = (text: string) => createHash('sha256').update(text).digest()
    const digests = Buffer.concat(['0', '1', '2'].map(digest))
    expect(answer.choices[0].logits_sha256).toBe(createHash('sha256').update(digests).digest('hex'))
    expect(answer.usage.completion_tokens).toBe(3)
  })

  it('of a model without tokenizer is ids', async () => {
    const { post } = await open({ served: { ...parrot, tokenizer: null } })
    const answer = await bodyOf(await post('/v1/completions', { prompt: [1, 2], max_tokens: 3, logprobs: 0 }))
    expect(answer.choices[0]).toMatchObject({
      text: '',
      token_ids: [1, 2, 1],
      logprobs: { tokens: ['token_id:1', 'token_id:2', 'token_id:1'] },
    })
    const refused = await post('/v1/completions', { prompt: 'a' })
    expect(refused.status).toBe(400)
  })
})

describe('a chat', () => {
  const served = {
    ...parrot,
    chat: { takesTools: false, render: (messages: readonly Record<string, unknown>[]) => String(messages[0].content) },
  }

  it('comes whole and streams the same', async () => {
    const { client } = await open({ served })
    const body: OpenAI.ChatCompletionCreateParamsNonStreaming = {
      model: 'parrot',
      messages: [{ role: 'user', content: 'a€' }],
      max_tokens: 5,
      logprobs: true,
      top_logprobs: 1,
    }
    const whole = await client.chat.completions.create(body)
    expect(whole).toMatchObject({ object: 'chat.completion', usage: { prompt_tokens: 4, completion_tokens: 5 } })
    expect(whole.choices[0]).toMatchObject({ finish_reason: 'length', message: { role: 'assistant', content: 'a€a' } })
    const content = whole.choices[0].logprobs?.content ?? []
    expect(content).toHaveLength(5)
    expect(content[0]).toMatchObject({ token: 'a', bytes: [97], logprob: -0.5, top_logprobs: [{ token: 'a' }] })
    expect(content[1]).toMatchObject({ token: '\ufffd', bytes: [0xe2] })

    const streamed = client.chat.completions.stream({ ...body, stream: true })
    const final = await streamed.finalChatCompletion()
    expect(final.choices[0].message.content).toBe('a€a')
    expect(final.choices[0].logprobs?.content).toEqual(content)
  })

  it('begins a stream with the role', async () => {
    const { post } = await open({ served })
    const body = { messages: [{ role: 'user', content: 'a' }], max_tokens: 1, stream: true }
    const events = await eventsOf(await post('/v1/chat/completions', body))
    expect(JSON.parse(events[0].data).choices[0].delta).toEqual({ role: 'assistant', content: '' })
    expect(JSON.parse(events[1].data)).toMatchObject({
      object: 'chat.completion.chunk',
      choices: [{ delta: { content: 'a' }, finish_reason: 'length' }],
    })
  })

  it('needs a template', async () => {
    const { client } = await open()
    const asked = client.chat.completions.create({ model: 'parrot', messages: [{ role: 'user', content: 'a' }] })
    await expect(asked).rejects.toMatchObject({ status: 400, param: 'messages' })
  })
})

describe('a client that goes away', () => {
  it.each([true, false])('cancels its request (stream: %s)', async (stream) => {
    const { client, bird, metrics } = await open({
      served: { ...parrot, config: { ...parrot.config, contextLength: 1e9 } },
    })
    const leave = new AbortController()
    const body = { model: 'parrot', prompt: ['abc', 'def'], max_tokens: 1e8 }
    if (stream) {
      const answer = await client.completions.create({ ...body, stream }, { signal: leave.signal })
      for await (const _ of answer) break
      leave.abort()
    } else {
      const answer = client.completions.create({ ...body, stream }, { signal: leave.signal })
      await vi.waitUntil(() => bird.running.size === 2)
      leave.abort()
      await expect(answer).rejects.toThrow('aborted')
    }
    await vi.waitUntil(() => bird.cancelled.length === 2)
    expect(bird.running.size).toBe(0)
    const text = await metrics.registry.metrics()
    expect(text).toMatch(/expertmesh_request_success_total{finished_reason="cancelled".*} 2/)
    expect(text).toMatch(/expertmesh_num_requests_running{.*} 0/)
    expect(text).toMatch(/expertmesh_num_requests_waiting{.*} 0/)
  })
})

describe('overload', () => {
  it('is 429 with Retry-After, and leaves no part of a refused request behind', async () => {
    const { post, bird, client } = await open({ queueLimit: 1, room: 1 })
    const response = await post('/v1/completions', { prompt: ['a', 'b', 'c', 'd'], max_tokens: 1 })
    expect(response.status).toBe(429)
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await bodyOf(response)).error).toMatchObject({ type: 'rate_limit_error', code: 'rate_limit_exceeded' })
    expect(bird.running.size).toBe(0)
    const next = await client.completions.create({ model: '', prompt: 'ab', max_tokens: 2 })
    expect(next.choices[0].text).toBe('ab')
  })
})
