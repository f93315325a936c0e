import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { credentials, loadPackageDefinition } from '@grpc/grpc-js'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { Code } from '../../shared/errors.ts'
import type { GenerateResponse__Output } from '../../shared/gen/expertmesh/v1/GenerateResponse.ts'
import type { ProtoGrpcType } from '../../shared/gen/inference.ts'
import { loadProto } from '../../shared/rpc.ts'
import { type Cluster, demo, startCluster } from '../support/cluster.ts'

type Case = { prompt: string; input_ids: number[]; greedy: number[]; text: string }
const { cases } = JSON.parse(readFileSync(join(demo, 'expected.json'), 'utf8')) as { cases: Case[] }

let cluster: Cluster
let client: OpenAI
let model: string

beforeAll(async () => {
  // fp32 is what the model's own golden was made with.
  cluster = await startCluster({ precision: 'fp32', workers: 2 })
  client = new OpenAI({ baseURL: `${cluster.url}/v1`, apiKey: 'none', maxRetries: 0 })
  const [served] = (await client.models.list()).data
  model = served.id
})

afterAll(async () => {
  expect(await cluster?.stop()).toBe(0)
})

const post = (path: string, body: unknown) =>
  fetch(cluster.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

const metric = async (name: string): Promise<number> => {
  const text = await (await fetch(`${cluster.url}/metrics`)).text()
  const line = text.split('\n').find((entry) => entry.startsWith(`expertmesh_${name}{`))
  return Number(line?.split(' ').at(-1))
}

const greedy = ({ prompt, greedy: { length } }: Case) => ({ model, prompt, max_tokens: length, temperature: 0 })

describe('the openai client', () => {
  it.each(cases)('completes $prompt as transformers does', async (example) => {
    const answer = await client.completions.create(greedy(example))
    expect(answer.choices[0].text).toBe(example.text)
    expect(answer.usage).toMatchObject({
      prompt_tokens: example.input_ids.length,
      completion_tokens: example.greedy.length,
    })
  })

  it('streams the same text, then usage', async () => {
    const stream_options = { include_usage: true }
    const stream = await client.completions.create({ ...greedy(cases[0]), stream: true, stream_options })
    const chunks: OpenAI.Completion[] = []
    for await (const chunk of stream) chunks.push(chunk)
    expect(chunks.map(({ choices }) => choices[0]?.text ?? '').join('')).toBe(cases[0].text)
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: cases[0].greedy.length } })
    expect(chunks.at(-2)?.choices[0].finish_reason).toBe('length')
    expect(chunks.length).toBe(cases[0].greedy.length + 1)
  })

  it('gets log-probabilities, of the prompt too', async () => {
    const body = { ...greedy(cases[0]), max_tokens: 4, logprobs: 3, echo: true }
    const [choice] = (await client.completions.create(body)).choices
    const { tokens = [], token_logprobs = [], top_logprobs = [], text_offset = [] } = choice.logprobs ?? {}
    const count = cases[0].input_ids.length + 4
    expect([tokens.length, token_logprobs.length, top_logprobs.length, text_offset.length]).toEqual(
      new Array(4).fill(count),
    )
    expect(token_logprobs[0]).toBe(null)
    // Greedy: the chosen token is the likeliest of those reported.
    for (let at = count - 4; at < count; at++)
      expect(token_logprobs[at]).toBe(Math.max(...Object.values(top_logprobs[at])))
    expect(choice.text.startsWith(cases[0].prompt)).toBe(true)
    expect(choice.text.slice(text_offset[count - 4])).toBe(
      (await client.completions.create({ ...greedy(cases[0]), max_tokens: 4 })).choices[0].text,
    )
  })

  it('draws the same tokens from the same seed, alone and among choices, and others from another', async () => {
    const body = { model, prompt: cases[0].prompt, max_tokens: 24, temperature: 1, top_p: 0.9, seed: 11 }
    const digest = { logits_sha256: true } as object
    const alone = await client.completions.create({ ...body, ...digest })
    const among = await client.completions.create({ ...body, ...digest, n: 3 })
    const other = await client.completions.create({ ...body, seed: 12 })
    expect(among.choices[0]).toEqual(alone.choices[0])
    expect(among.choices[0]).toHaveProperty('logits_sha256', expect.stringMatching(/^[0-9a-f]{64}$/))
    expect(new Set(among.choices.map(({ text }) => text)).size).toBe(3)
    expect(other.choices[0].text).not.toBe(alone.choices[0].text)
    expect(among.system_fingerprint).toBe(other.system_fingerprint)
  })

  it('stops at a stop string', async () => {
    const whole = cases[0].text
    const stop = whole.slice(7, 10)
    const [choice] = (await client.completions.create({ ...greedy(cases[0]), stop })).choices
    expect(choice).toMatchObject({ text: whole.slice(0, whole.indexOf(stop)), finish_reason: 'stop' })
  })

  it('aborts, and the gateway stops working on it', async () => {
    const body = { model, prompt: cases[0].prompt, max_tokens: 900, stream: true, ignore_eos: true } as const
    const stream = await client.completions.create(body as OpenAI.CompletionCreateParamsStreaming)
    for await (const _ of stream) break
    stream.controller.abort()
    await vi.waitUntil(async () => (await metric('num_requests_running')) === 0, { timeout: 10_000 })
    const generated = await metric('generation_tokens_total')
    await client.completions.create({ ...greedy(cases[0]), max_tokens: 5 })
    expect(await metric('generation_tokens_total')).toBe(generated + 5)
  })

  it('finds the model, and no other', async () => {
    expect(await client.models.retrieve(model)).toMatchObject({ id: model, object: 'model', precision: 'fp32' })
    await expect(client.models.retrieve('gpt-5')).rejects.toMatchObject({ status: 404, code: 'model_not_found' })
  })

  it('is told that the model has no chat template', async () => {
    const asked = client.chat.completions.create({ model, messages: [{ role: 'user', content: 'hi' }] })
    await expect(asked).rejects.toMatchObject({
      status: 400,
      param: 'messages',
      message: expect.stringContaining('chat template'),
    })
  })
})

describe('bad input', () => {
  const context = 1024
  it.each([
    ['malformed JSON', '{"prompt": "a"', 400, null, null],
    ['a list for a body', '[]', 400, null, null],
    ['a number for a prompt', { prompt: 5 }, 400, 'prompt', null],
    ['text for max_tokens', { prompt: 'a', max_tokens: 'many' }, 400, 'max_tokens', null],
    ['text for stream', { prompt: 'a', stream: 'yes' }, 400, 'stream', null],
    [
      'a prompt as long as the context',
      { prompt: new Array(context).fill(5) },
      400,
      'prompt',
      'context_length_exceeded',
    ],
    ['far too long a text', { prompt: 'x '.repeat(400_000) }, 400, 'prompt', 'context_length_exceeded'],
    [
      'more tokens than there is room',
      { prompt: [5, 6], max_tokens: 1023 },
      400,
      'max_tokens',
      'context_length_exceeded',
    ],
    ['a token id past the vocabulary', { prompt: [4096] }, 400, 'prompt', null],
    ['a negative token id', { prompt: [-1] }, 400, 'prompt', null],
    ['an unknown model', { prompt: 'a', model: 'gpt-5' }, 404, 'model', 'model_not_found'],
    ['max_tokens 0', { prompt: 'a', max_tokens: 0 }, 400, 'max_tokens', null],
    ['max_tokens -1', { prompt: 'a', max_tokens: -1 }, 400, 'max_tokens', null],
    ['five stop strings', { prompt: 'a', stop: ['a', 'b', 'c', 'd', 'e'] }, 400, 'stop', null],
  ])('%s is refused and nothing else disturbed', async (_, body, status, param, code) => {
    const busy = client.completions.create(greedy(cases[0]))
    const response = await post('/v1/completions', body)
    const { error } = (await response.json()) as { error: Record<string, unknown> }
    expect([response.status, error.param, error.code, error.type]).toEqual([
      status,
      param,
      code,
      'invalid_request_error',
    ])
    expect((await busy).choices[0].text).toBe(cases[0].text)
  })

  it('a body of 64 MB is refused, and the next served', async () => {
    const response = await post('/v1/completions', { prompt: 'x'.repeat(64 * 2 ** 20) })
    expect(response.status).toBe(413)
    expect(await response.json()).toMatchObject({ error: { code: 'body_too_large' } })
    expect((await client.completions.create(greedy(cases[0]))).choices[0].text).toBe(cases[0].text)
  })
})

describe('the other routes', () => {
  it('turn text into ids and back', async () => {
    const { prompt, input_ids } = cases[0]
    const tokens = await (await post('/tokenize', { prompt })).json()
    expect(tokens).toMatchObject({ tokens: input_ids, count: input_ids.length, max_model_len: 1024 })
    expect(await (await post('/detokenize', { tokens: input_ids.slice(1) })).json()).toEqual({ prompt })
  })

  it('say that all experts are there', async () => {
    const ready = await fetch(`${cluster.url}/readyz`)
    expect([ready.status, await ready.json()]).toEqual([200, { status: 'ready', missing: [] }])
    expect((await fetch(`${cluster.url}/livez`)).status).toBe(200)
    expect((await fetch(`${cluster.url}/health`)).status).toBe(200)
  })
})

describe('a plain gRPC client', () => {
  const open = () => {
    const { expertmesh } = loadPackageDefinition(loadProto('inference')) as unknown as ProtoGrpcType
    return new expertmesh.v1.InferenceService(cluster.grpc, credentials.createInsecure())
  }

  it('streams what HTTP does', async () => {
    const inference = open()
    const { prompt, greedy: ids } = cases[0]
    const messages: GenerateResponse__Output[] = []
    for await (const message of inference.Generate({ prompt, max_tokens: ids.length, temperature: 0 }))
      messages.push(message)
    expect(messages.flatMap((message) => message.ids)).toEqual(ids)
    expect(messages.map(({ text }) => text).join('')).toBe(cases[0].text)
    expect(messages.at(-1)).toMatchObject({ finish_reason: 'length', usage: { completion_tokens: ids.length } })
    inference.close()
  })

  it('is refused with a status', async () => {
    const inference = open()
    const call = inference.Generate({ prompt_ids: { ids: [4096] } })
    const error = await new Promise((resolve) => call.on('error', resolve).resume())
    expect(error).toMatchObject({ code: Code.INVALID_ARGUMENT, details: expect.stringContaining('4096') })
    inference.close()
  })
})
