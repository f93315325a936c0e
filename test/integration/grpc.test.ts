import { credentials, loadPackageDefinition, type ServiceError } from '@grpc/grpc-js'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { inferenceHandlers } from '../../services/gateway/accept/grpc.ts'
import type { Served } from '../../services/gateway/accept/served.ts'
import { Code } from '../../shared/errors.ts'
import type { GenerateRequest } from '../../shared/gen/expertmesh/v1/GenerateRequest.ts'
import type { GenerateResponse__Output } from '../../shared/gen/expertmesh/v1/GenerateResponse.ts'
import type { ProtoGrpcType } from '../../shared/gen/inference.ts'
import { INFERENCE_SERVICE, loadProto, serviceOf } from '../../shared/rpc.ts'
import { createServer, listen } from '../../shared/server.ts'
import { inProcess, openReader, partsOf, type Reader } from '../support/api.ts'

let reader: Reader
beforeAll(async () => {
  reader = await openReader()
})
afterAll(() => reader.close())

const closing: (() => void)[] = []
afterEach(() => {
  for (const close of closing.splice(0)) close()
})

/** The service on a free port, and a plain client of the proto. */
const open = async ({ served = reader.served, queueLimit = 100 }: { served?: Served; queueLimit?: number } = {}) => {
  const proto = loadProto('inference')
  const server = createServer({ token: null, maxMessageBytes: 2 ** 20 })
  const handlers = inferenceHandlers(partsOf({ served, local: reader.local }, inProcess(queueLimit), 1))
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
  return { client, generate }
}

/** The answer of a unary call. */
const answer = <T>(call: (callback: (error: ServiceError | null, value?: T) => void) => void): Promise<T> =>
  new Promise((resolve, reject) => call((error, value) => (error ? reject(error) : resolve(value as T))))

/** More tokens than the engine can make while a test runs. */
const endless = 500_000
const idle = () => expect.poll(() => reader.local.counts()).toMatchObject({ running: 0, waiting: 0 })

describe('Generate', () => {
  it('streams tokens and ends with a reason and usage', async () => {
    const { generate } = await open()
    const messages = await generate({ prompt: 'z', max_tokens: 5, logits_sha256: true, logprobs: 1 })
    expect(messages.map(({ index, ids }) => [index, ...ids])).toEqual([
      [0, 0xc3],
      [1, 0xa9],
      [2, 0xe2],
      [3, 0x82],
      [4, 0xac],
    ])
    expect(messages.map(({ text }) => text)).toEqual(['', 'é', '', '', '€'])
    expect(messages.map(({ finish_reason }) => finish_reason)).toEqual(['', '', '', '', 'length'])
    expect(messages[4].usage).toEqual({ prompt_tokens: 2, completion_tokens: 5, cached_tokens: 0 })
    expect(messages[4].logits_sha256).toMatch(/^[0-9a-f]{64}$/)
    expect(messages[0].logprobs.map(({ id, token }) => [id, token])).toEqual([
      [0xc3, '\ufffd'],
      [0xc3, '\ufffd'],
    ])
  })

  it('takes ids as they are and goes on to the end of the context without max_tokens', async () => {
    const { generate } = await open()
    const messages = await generate({ prompt_ids: { ids: [1, 2, 3] } })
    expect(messages).toHaveLength(61)
    expect(messages[60]).toMatchObject({ finish_reason: 'length', ids: [3] })
  })

  it('ends before a stop string', async () => {
    const { generate } = await open()
    const messages = await generate({ prompt: 'a', max_tokens: 50, stop: ['de'] })
    expect(messages.map(({ text }) => text).join('')).toBe('bc')
    expect(messages.at(-1)).toMatchObject({ finish_reason: 'stop', usage: { completion_tokens: 4 } })
  })

  it('cancels the work of a client that cancels, and of one whose deadline passes', async () => {
    const { client } = await open({ served: reader.endless })
    const call = client.Generate({ prompt: 'abc', max_tokens: endless })
    call.on('error', () => {})
    await new Promise((resolve) => call.once('data', resolve))
    expect(reader.local.counts().running).toBe(1)
    call.cancel()
    await idle()
    const late = client.Generate({ prompt: 'abc', max_tokens: endless }, { deadline: Date.now() + 200 })
    const error = await new Promise((resolve) => late.on('error', resolve).resume())
    expect(error).toMatchObject({ code: Code.DEADLINE_EXCEEDED })
    await idle()
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
    const { client, generate } = await open({ served: reader.endless, queueLimit: 1 })
    const busy = ['a', 'b'].map((prompt) => client.Generate({ prompt, max_tokens: endless }))
    for (const call of busy) call.on('error', () => {}).resume()
    await expect.poll(() => reader.local.counts().running).toBe(1)
    // The second may still be on its way; one of the next two finds the queue full whichever comes first.
    const third = client.Generate({ prompt: 'c', max_tokens: endless })
    third.on('error', () => {}).resume()
    await expect(generate({ prompt: 'd' })).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED })
    for (const call of [...busy, third]) call.cancel()
    await idle()
  })
})

describe('the other methods', () => {
  it('tell of the model', async () => {
    const { client } = await open()
    const { models } = await answer<{ models?: object[] }>((callback) => client.Models({}, callback))
    const { hash } = reader.served
    const kind = 'decoder'
    expect(models).toEqual([{ id: 'alphabet', hash, family: 'mixtral', precision: 'fp32', context_length: 64, kind }])
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
