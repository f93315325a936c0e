import { credentials, loadPackageDefinition, type ServiceError } from '@grpc/grpc-js'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { inferenceHandlers } from '../../services/gateway/accept/grpc.ts'
import type { Served } from '../../services/gateway/accept/served.ts'
import { openMetrics } from '../../services/gateway/metrics.ts'
import { feed, openQueue } from '../../services/gateway/queue.ts'
import { textStream } from '../../services/gateway/stream/emit.ts'
import { Code } from '../../shared/errors.ts'
import type { GenerateRequest } from '../../shared/gen/expertmesh/v1/GenerateRequest.ts'
import type { GenerateResponse__Output } from '../../shared/gen/expertmesh/v1/GenerateResponse.ts'
import type { ProtoGrpcType } from '../../shared/gen/inference.ts'
import { createServer, INFERENCE_SERVICE, listen, loadProto, serviceOf } from '../../shared/rpc.ts'
import { bytes, parrot, parrotEngine } from '../support/parrot.ts'

const closing: (() => void)[] = []
afterEach(() => {
  for (const close of closing.splice(0)) close()
})

/** The service on a free port, with a parrot for an engine, and a plain client of the proto. */
const open = async (served: Served = parrot, queueLimit = 100) => {
  const bird = parrotEngine()
  const proto = loadProto('inference')
  const server = createServer({ token: null, maxMessageBytes: 2 ** 20 })
  const handlers = inferenceHandlers({
    served,
    intake: feed(bird.engine, openQueue(queueLimit), 1),
    openTextStream: (of) => textStream(bytes, of),
    metrics: openMetrics('parrot'),
  })
  server.addService(serviceOf(proto, INFERENCE_SERVICE), handlers)
  const address = await listen(server, '127.0.0.1:0')
  const { expertmesh } = loadPackageDefinition(proto) as unknown as ProtoGrpcType
  const client = new expertmesh.v1.InferenceService(address, credentials.createInsecure())
  closing.push(() => {
    client.close()
    server.forceShutdown()
  })
  const generate = async (request: GenerateRequest): Promise<GenerateResponse__Output[]> => {
    const messages: GenerateResponse__Output[] = []
    for await (const message of client.Generate(request)) messages.push(message)
    return messages
  }
  return { client, generate, bird }
}

/** The answer of a unary call. */
const answer = <T>(call: (callback: (error: ServiceError | null, value?: T) => void) => void): Promise<T> =>
  new Promise((resolve, reject) => call((error, value) => (error ? reject(error) : resolve(value as T))))

const endless: Served = { ...parrot, config: { ...parrot.config, contextLength: 1e9 } }

describe('Generate', () => {
  it('streams tokens and ends with a reason and usage', async () => {
    const { generate } = await open()
    const messages = await generate({ prompt: 'a€', max_tokens: 5, logits_sha256: true, logprobs: 1 })
    expect(messages.map(({ index, ids }) => [index, ...ids])).toEqual([
      [0, 97],
      [1, 0xe2],
      [2, 0x82],
      [3, 0xac],
      [4, 97],
    ])
    expect(messages.map(({ text }) => text)).toEqual(['a', '', '', '€', 'a'])
    expect(messages.map(({ finish_reason }) => finish_reason)).toEqual(['', '', '', '', 'length'])
    expect(messages[4].usage).toEqual({ prompt_tokens: 5, completion_tokens: 5, cached_tokens: 1 })
    expect(messages[4].logits_sha256).toMatch(/^[0-9a-f]{64}$/)
    expect(messages[0].logprobs.map(({ id, token }) => [id, token])).toEqual([
      [97, 'a'],
      [97, 'a'],
    ])
  })

  it('takes ids as they are and goes on to the end of the context without max_tokens', async () => {
    const { generate } = await open()
    const messages = await generate({ prompt_ids: { ids: [1, 2, 3] } })
    expect(messages).toHaveLength(61)
    expect(messages[60]).toMatchObject({ finish_reason: 'length', ids: [1] })
  })

  it('ends before a stop string', async () => {
    const { generate } = await open()
    const messages = await generate({ prompt: 'abcd', max_tokens: 50, stop: ['cd'] })
    expect(messages.map(({ text }) => text).join('')).toBe('ab')
    expect(messages.at(-1)).toMatchObject({ finish_reason: 'stop', usage: { completion_tokens: 4 } })
  })

  it('cancels the work of a client that cancels, and of one whose deadline passes', async () => {
    const { client, bird } = await open(endless)
    const call = client.Generate({ prompt: 'abc', max_tokens: 1e8 })
    call.on('error', () => {})
    await new Promise((resolve) => call.once('data', resolve))
    call.cancel()
    await vi.waitUntil(() => bird.cancelled.length === 1)
    expect(bird.running.size).toBe(0)
    const late = client.Generate({ prompt: 'abc', max_tokens: 1e8 }, { deadline: Date.now() + 200 })
    const error = await new Promise((resolve) => late.on('error', resolve).resume())
    expect(error).toMatchObject({ code: Code.DEADLINE_EXCEEDED })
    await vi.waitUntil(() => bird.cancelled.length === 2)
  })

  it.each([
    [{}, 'input is missing'],
    [{ prompt: 'a', model: 'other' }, 'other does not exist'],
    [{ prompt: 'x'.repeat(64) }, 'context'],
    [{ prompt_ids: { ids: [] } }, 'empty'],
    [{ prompt_ids: { ids: [258] } }, 'Token id 258'],
    [{ prompt: 'a', max_tokens: 64 }, 'max_tokens'],
    [{ prompt: 'a', temperature: -1 }, 'temperature'],
    [{ prompt: 'a', temperature: Number.NaN }, 'temperature'],
    [{ prompt: 'a', stop: ['1', '2', '3', '4', '5'] }, 'stop'],
    [{ prompt: 'a', logit_bias: { 999: 1 } }, 'Token id 999'],
    [{ prompt: 'a', logprobs: 21 }, 'logprobs'],
  ])('refuses %j', async (request, words) => {
    const { generate } = await open()
    const code = words.includes('does not exist') ? Code.NOT_FOUND : Code.INVALID_ARGUMENT
    await expect(generate(request)).rejects.toMatchObject({ code, details: expect.stringContaining(words) })
  })

  it('is refused when the queue is full', async () => {
    const { client, generate, bird } = await open(endless, 1)
    const busy = [client.Generate({ prompt: 'a' }), client.Generate({ prompt: 'b' })]
    for (const call of busy) call.on('error', () => {}).resume()
    await vi.waitUntil(() => bird.running.size === 1)
    // The second may still be on its way; one of the next two finds the queue full whichever comes first.
    const third = client.Generate({ prompt: 'c' })
    third.on('error', () => {}).resume()
    await expect(generate({ prompt: 'd' })).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED })
    for (const call of [...busy, third]) call.cancel()
  })
})

describe('the other methods', () => {
  it('tell of the model', async () => {
    const { client } = await open()
    const { models } = await answer<{ models?: object[] }>((callback) => client.Models({}, callback))
    expect(models).toEqual([{ id: 'parrot', hash: 'c0ffee', family: 'parrot', precision: 'fp32', context_length: 64 }])
  })

  it('turn text into ids and back', async () => {
    const { client } = await open()
    expect(await answer((callback) => client.Tokenize({ text: 'aé' }, callback))).toEqual({
      ids: [256, 97, 195, 169],
      tokens: ['<s>', 'a', '\ufffd', '\ufffd'],
    })
    const bare = { text: 'a', add_special_tokens: false }
    expect(await answer((callback) => client.Tokenize(bare, callback))).toMatchObject({ ids: [97] })
    expect(await answer((callback) => client.Detokenize({ ids: [97, 195, 169] }, callback))).toEqual({ text: 'aé' })
    const wrong = answer((callback) => client.Detokenize({ ids: [258] }, callback))
    await expect(wrong).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT })
  })
})
