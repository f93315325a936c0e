/** Beam search through the whole engine, held to the same search over the oracle's logits, each output computed from its start. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { advanceSearch, bestOutput, type Finished, startSearch } from '../../services/gateway/forward/beam.ts'
import { constrain } from '../../services/gateway/forward/constrain.ts'
import type { GenerationRequest } from '../../services/gateway/sequence.ts'
import { openModel } from '../../shared/model/open.ts'
import { loadReference, type Reference } from '../reference/model.ts'
import { bodyOf, eventsOf, openApi, openReader, type Reader } from '../support/api.ts'
import { writeCheckpoint } from '../support/checkpoint.ts'
import { seq2seqConfigs, tinyConfigs } from '../support/configs.ts'
import { type Local, type LocalOptions, openLocal, requestOf } from '../support/local.ts'
import { seeded } from '../support/random.ts'

const vocabulary = 128
const OUTPUT = 12
const folders: string[] = []
const checkpoint = async (config: Parameters<typeof writeCheckpoint>[1], seed: number): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'expertmesh-beams-'))
  folders.push(dir)
  await writeCheckpoint(dir, config, { seed })
  return dir
}
afterAll(() => Promise.all(folders.map((dir) => rm(dir, { recursive: true }))))

const randomIds = (length: number, seed: number): number[] => {
  const next = seeded(seed)
  return Array.from({ length }, () => next(vocabulary))
}

/** Searches of several widths and rules; with an encoder the ids are its source. */
const requestsOf = (start: number | null): GenerationRequest[] =>
  [1, 3, 9, 40].map((length, i) => {
    const ids = randomIds(length, i + 3)
    const search = {
      beams: 2 + i,
      lengthPenalty: [1, 0, 2, -1][i],
      earlyStopping: ([false, true, 'never', false] as const)[i],
    }
    // Ends that are likely enough to come.
    const stopIds = i % 2 ? Array.from({ length: 20 }, (_, at) => at * 6) : [1]
    const input = start === null ? { prompt: ids } : { source: ids, prompt: [start] }
    return requestOf([], OUTPUT, { ...input, search, stopIds, minTokens: i, logprobs: 2 })
  })

const searchOver = (reference: Reference, request: GenerationRequest): Finished => {
  const { source, prompt, stopIds, maxTokens, search } = request
  const logitsBehind = (output: readonly number[]): Float32Array => {
    const past = source.length > 0 ? reference.encode(source) : reference.begin(prompt.length)
    return reference.step([...prompt, ...output], past).at(-1)!
  }
  const allowed = (output: readonly number[]) => constrain(reference.config.encoder, request, output)
  let state = startSearch()
  while (!state.done) {
    const rows = state.live.map(({ output }) => logitsBehind(output))
    state = advanceSearch(state, rows, allowed, { ...search!, stopIds, maxTokens })
  }
  return bestOutput(state)
}

const decoders = ['deepseek', 'mixtral', 'deepseek_v3'] as const
const models = [
  ...Object.entries(seq2seqConfigs),
  ...decoders.map((name) => [name, tinyConfigs[name]] as const),
] as const

describe.each(models)('a search with a random %s', (_, config) => {
  let dir: string
  let requests: GenerationRequest[]
  let reference: Reference
  beforeAll(async () => {
    dir = await checkpoint(config, 21)
    const model = await openModel(dir)
    reference = await loadReference(model)
    requests = requestsOf(model.config.encoder?.start ?? null)
    await model.close()
  })

  it('finds what it finds over the oracle’s logits', async () => {
    const local = await openLocal(dir)
    for (const request of requests) {
      const expected = searchOver(reference, request)
      const { ids, events } = await local.generate({ ...request, id: `oracle ${request.id}` })
      expect(ids).toEqual(expected.output)
      const last = events.at(-1)
      expect(last).toMatchObject({ kind: 'token', finish: expected.finish })
    }
    await local.close()
  })

  it('tells the digest and log-probability of every token as plain decoding does', async () => {
    const local = await openLocal(dir)
    for (const request of requests) {
      const { ids, digests, events } = await local.generate(request)
      const tokens = events.filter((event) => event.kind === 'token')
      expect(tokens).toHaveLength(ids.length)
      for (const at of ids.keys()) {
        const one = { ...request, id: `${request.id} ${at}`, search: null, resume: ids.slice(0, at), maxTokens: at + 1 }
        const plain = await local.generate({ ...one, minTokens: 0 })
        expect(plain.digests).toEqual([digests[at]])
        const [token] = plain.events.filter((event) => event.kind === 'token')
        expect(tokens[at].logprob?.top).toEqual(token.logprob?.top)
      }
    }
    await local.close()
  })

  it('gives the same bits in any company and cut, and to who has heard a part of it', async () => {
    const generate = async (options: LocalOptions, resumed: number) => {
      const local = await openLocal(dir, options)
      const all = await Promise.all([
        ...requests.map((request) => local.generate(request)),
        local.generate({ ...requests[0], id: 'neighbour', search: null }),
      ])
      for (const [i, request] of requests.entries()) {
        const resume = all[i].ids.slice(0, Math.min(resumed, all[i].ids.length - 1))
        const rest = await local.generate({ ...request, id: `${request.id} again`, resume })
        expect(rest.ids).toEqual(all[i].ids.slice(resume.length))
        expect(rest.digests).toEqual(all[i].digests.slice(resume.length))
      }
      await local.close()
      return all.map(({ ids, digests }) => ({ ids, digests }))
    }
    const expected = await generate({}, 0)
    const others: LocalOptions[] = [{ maxSequences: 5 }, { maxBatchTokens: 6, chunk: 2 }, { threads: 2 }]
    for (const options of others) expect(await generate(options, 1)).toEqual(expected)
  })
})

describe('a search in a cache too small', () => {
  const layers = 3
  const blockBytes = layers * 2 * 2 * 16 * 128 * 4

  it('is preempted as one and begins again, with the same bits', async () => {
    const dir = await checkpoint(tinyConfigs.mixtral, 22)
    const generate = async (options: LocalOptions) => {
      const local = await openLocal(dir, options)
      const search = { beams: 3, lengthPenalty: 1, earlyStopping: true }
      const asks = [0, 1].map((i) => requestOf(randomIds(100 + i, i), 60, { search }))
      const all = await Promise.all(asks.map((request) => local.generate(request)))
      const { preempted } = local.counts()
      await local.close()
      return { digests: all.map(({ digests }) => digests), preempted }
    }
    const roomy = await generate({})
    expect(roomy.preempted).toBe(0)
    const tight = await generate({ kvMemoryBytes: Math.ceil(7.9 * blockBytes) })
    expect(tight.preempted).toBeGreaterThan(0)
    expect(tight.digests).toEqual(roomy.digests)
  })

  it('gives all its blocks back, whether it ends, fails or is called off', async () => {
    const dir = await checkpoint(tinyConfigs.mixtral, 22)
    const local: Local = await openLocal(dir, { kvMemoryBytes: Math.ceil(4.9 * blockBytes) })
    const search = { beams: 4, lengthPenalty: 1, earlyStopping: true }
    const request = () => requestOf(randomIds(9, 1), 100, { search })
    const { digests } = await local.generate(request())
    for (let round = 0; round < 4; round++) {
      const called = request()
      await new Promise<void>((resolve) => local.engine.submit(called, ({ kind }) => kind === 'started' && resolve()))
      local.engine.cancel(called.id)
      local.hold(false)
      await expect(local.generate(request())).rejects.toThrow('no worker holds')
      local.hold(true)
      expect((await local.generate(request())).digests).toEqual(digests)
    }
    expect(local.counts()).toMatchObject({ waiting: 0, running: 0, preempted: 0 })
    await local.close()
  })
})

describe('over HTTP', () => {
  let reader: Reader
  beforeAll(async () => {
    reader = await openReader()
  })
  afterAll(() => reader.close())

  it('an answer is the search’s, and a stream tells it at the end', async () => {
    const api = await openApi(reader)
    const body = { prompt: 'abc', max_tokens: 20, num_beams: 4, return_token_ids: true, ignore_eos: true }
    const answer = await bodyOf(await api.post('/v1/completions', body))
    const prompt = reader.served.tokenizer!.encode('abc', { addSpecialTokens: true })
    const search = { beams: 4, lengthPenalty: 1, earlyStopping: false }
    const { ids } = await reader.local.generate(requestOf(prompt, 20, { search }))
    expect(answer).toMatchObject({ choices: [{ token_ids: ids, finish_reason: 'length' }] })
    const chunks = (await eventsOf(await api.post('/v1/completions', { ...body, stream: true })))
      .filter(({ data }) => data !== '[DONE]')
      .map(({ data }) => JSON.parse(data))
    expect(chunks.flatMap(({ choices }) => choices[0]?.token_ids ?? [])).toEqual(ids)
    await api.close()
  })
})
