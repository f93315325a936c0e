/** An encoder–decoder through both APIs and the command line's own client, before an engine that only says what it is handed. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { generateOver } from '../../services/cli/client.ts'
import { report, toRequest } from '../../services/cli/generate.ts'
import { inferenceHandlers } from '../../services/gateway/accept/grpc.ts'
import type { Engine, GenerationRequest } from '../../services/gateway/sequence.ts'
import { INFERENCE_SERVICE, loadProto, serviceOf } from '../../shared/rpc.ts'
import { createServer, listen } from '../../shared/server.ts'
import { eos, readAlphabet } from '../support/alphabet.ts'
import { type Api, bodyOf, eventsOf, openApi, partsOf, type Reader } from '../support/api.ts'
import type { Local } from '../support/local.ts'

const start = 7
const encoder = { layers: 1, start, forcedFirst: null, forcedLast: null, suppressed: [], suppressedFirst: [] }

const handed: GenerationRequest[] = []
/** Says the source, then ends. */
const engine: Engine = {
  submit(request, onEvent) {
    handed.push(request)
    const { id, source } = request
    onEvent({ kind: 'started', id, cachedTokens: 0 })
    for (const [index, token] of [...source, eos].entries()) {
      const finish = index === source.length ? 'stop' : null
      onEvent({ kind: 'token', id, index, token, logprob: null, digest: new Uint8Array(32), finish })
    }
  },
  cancel() {},
}

let reader: Reader
let api: Api
let grpc: string
const closing: (() => unknown)[] = []
beforeAll(async () => {
  const alphabet = await readAlphabet()
  const served = { ...alphabet, config: { ...alphabet.config, encoder } }
  reader = { served, endless: served, local: { engine } as Local, close: async () => {} }
  api = await openApi(reader)
  const server = createServer({ token: null, maxMessageBytes: 2 ** 20 })
  server.addService(serviceOf(loadProto('inference'), INFERENCE_SERVICE), inferenceHandlers(partsOf(reader)))
  grpc = await listen(server, '127.0.0.1:0')
  closing.push(
    () => api.close(),
    () => server.forceShutdown(),
  )
})
afterAll(async () => {
  for (const close of closing) await close()
})

describe('over HTTP', () => {
  it('a completion tells of the source as its prompt', async () => {
    const body = { prompt: [97, 98, eos], max_tokens: 9, return_token_ids: true }
    const answer = await (await api.post('/v1/completions', body)).json()
    expect(answer).toMatchObject({
      choices: [{ prompt_token_ids: [97, 98, eos], token_ids: [97, 98, eos, eos], finish_reason: 'stop' }],
      usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
    })
    expect(handed.at(-1)).toMatchObject({ source: [97, 98, eos], prompt: [start] })
  })

  it('a stream does too', async () => {
    const body = { prompt: 'ab', stream: true, stream_options: { include_usage: true } }
    const events = await eventsOf(await api.post('/v1/completions', body))
    const parts = events.filter(({ data }) => data !== '[DONE]').map(({ data }) => JSON.parse(data))
    const text = parts.flatMap(({ choices }) => choices.map((choice: { text: string }) => choice.text)).join('')
    expect(text).toBe('ab')
    expect(parts.at(-1).usage.prompt_tokens).toBe(3)
  })

  it('a chat gets a 400, and so do an empty source and one too long', async () => {
    const messages = [{ role: 'user', content: 'hi' }]
    const status = async (path: string, body: object): Promise<[number, string]> => {
      const response = await api.post(path, body)
      return [response.status, (await bodyOf(response)).error.message]
    }
    expect(await status('/v1/chat/completions', { messages })).toEqual([400, expect.stringContaining('takes no chats')])
    expect(await status('/v1/completions', { prompt: [[]] })).toEqual([400, expect.stringContaining('empty')])
    const long = { prompt: new Array(65).fill(97) }
    expect(await status('/v1/completions', long)).toEqual([400, expect.stringContaining('at most 64 tokens')])
  })
})

it('the command line sends ids as the source, and prints what it prints for a decoder alone', async () => {
  const options = { model: 'm', workers: 0, ids: [97, 98], maxTokens: 24, temperature: 0, ignoreEos: true, json: true }
  const signal = new AbortController().signal
  const completion = await generateOver(grpc, toRequest(options), { token: null, signal, onText() {} })
  expect(report(completion, true)).toEqual({
    ids: [97, 98, eos],
    text: 'ab',
    logits_sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    finish_reason: 'stop',
    usage: { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5, cached_tokens: 0 },
    timing: expect.anything(),
  })
  expect(handed.at(-1)).toMatchObject({
    source: [97, 98],
    prompt: [start],
    maxTokens: 24,
    stopIds: [],
    sampling: { temperature: 0 },
  })
})
