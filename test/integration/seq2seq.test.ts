import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { EngineEvent, GenerationRequest } from '../../services/gateway/sequence.ts'
import { PRECISIONS } from '../../shared/model/config.ts'
import { openModel } from '../../shared/model/open.ts'
import { loadReference, type Reference } from '../reference/model.ts'
import { writeCheckpoint } from '../support/checkpoint.ts'
import { seq2seqConfigs } from '../support/configs.ts'
import { describeGolden, golden } from '../support/goldens.ts'
import { type Generated, type Local, type LocalOptions, openLocal, requestOf } from '../support/local.ts'
import { seeded } from '../support/random.ts'

const families = ['marian', 'bart', 't5', 'switch_transformers', 'nllb_moe']

/** What was generated first, as logits where those of the largest are known. */
const firstLogits = async (local: Local, source: readonly number[], start: number, expected: ArrayLike<number>) => {
  const V = expected.length
  const { events } = await local.generate(requestOf([start], 1, { source, logprobs: V }))
  const event = events.find((e) => e.kind === 'token')
  const logits = Array.from(expected)
  const largest = Math.max(...logits)
  const normaliser = largest + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - largest), 0))
  const found = new Float64Array(V)
  for (const { id, logprob } of event?.kind === 'token' ? (event.logprob?.top ?? []) : [])
    found[id] = logprob + normaliser
  return found
}

const apart = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i])))

for (const name of families) {
  describeGolden(name, () => {
    let local: Local
    let start: number
    beforeAll(async () => {
      const { dir } = golden(name)
      const model = await openModel(dir)
      start = model.config.encoder?.start ?? -1
      await model.close()
      local = await openLocal(dir)
    })
    afterAll(() => local?.close())

    it('generates the ids that transformers generates, by argmax', async () => {
      for (const { input_ids, greedy } of golden(name).cases) {
        const { ids } = await local.generate(requestOf([start], greedy.length, { source: input_ids }))
        expect(ids).toEqual(greedy)
      }
    })

    it('gives the logits of transformers at the first position', async () => {
      for (const { input_ids, first_logits } of golden(name).cases)
        expect(apart(await firstLogits(local, input_ids, start, first_logits), first_logits)).toBeLessThan(2e-4)
    })
  })
}

/** By the checkpoint's rules of the first token, and without the suppressed ones. */
const constrained = (reference: Reference, source: readonly number[]): number[] => {
  const { start, forcedFirst, suppressed, suppressedFirst } = reference.config.encoder!
  const past = reference.encode(source)
  const ids = [start]
  while (ids.length <= OUTPUT) {
    const logits = reference.step(ids.slice(-1), past)[0]
    const first = ids.length === 1
    for (const id of [...suppressed, ...(first ? suppressedFirst : [])]) logits[id] = Number.NEGATIVE_INFINITY
    ids.push(first && forcedFirst !== null ? forcedFirst : logits.indexOf(Math.max(...logits)))
  }
  return ids.slice(1)
}

const OUTPUT = 20
const SOURCES = [1, 2, 9, 33]
const vocabulary = 128
/** Options that cut steps, sources and the cache in other places. */
const others: LocalOptions[] = [{ maxSequences: 1 }, { maxBatchTokens: 5, chunk: 2 }, { threads: 2 }]

describe.each(Object.entries(seq2seqConfigs))('a random %s', (_, config) => {
  let dir: string
  const sources = SOURCES.map((length, i) => {
    const next = seeded(i + 3)
    return Array.from({ length }, () => next(vocabulary))
  })
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'expertmesh-seq2seq-'))
    await writeCheckpoint(dir, config, { seed: 11 })
  })
  afterAll(() => rm(dir, { recursive: true, force: true }))

  it('generates what the oracle generates', async () => {
    const model = await openModel(dir)
    const reference = await loadReference(model)
    const start = model.config.encoder!.start
    const local = await openLocal(dir)
    for (const source of sources) {
      const logits = reference.step([start], reference.encode(source))[0]
      expect(apart(await firstLogits(local, source, start, logits), logits)).toBeLessThan(2e-4)
      const { ids } = await local.generate(requestOf([start], OUTPUT, { source }))
      expect(ids).toEqual(constrained(reference, source))
    }
    await local.close()
    await model.close()
  })

  it.each(PRECISIONS)(
    'gives the same bits in any company and cut, from the prefix cache and resumed, %s',
    async (precision) => {
      const model = await openModel(dir)
      const start = model.config.encoder!.start
      await model.close()
      const generate = async (options: LocalOptions) => {
        const local = await openLocal(dir, { precision, ...options })
        const all = await Promise.all(sources.map((source) => local.generate(requestOf([start], OUTPUT, { source }))))
        for (const [i, { ids, digests }] of all.entries()) {
          const resume = ids.slice(0, OUTPUT - 2)
          const resumed = await local.generate(requestOf([start], OUTPUT, { source: sources[i], resume }))
          expect(resumed.digests).toEqual(digests.slice(OUTPUT - 2))
          // One sequence at a time leaves one finished sequence to begin from.
          const cachedTokens = options.maxSequences === 1 ? expect.any(Number) : OUTPUT - 2
          expect(resumed.events[0]).toMatchObject({ kind: 'started', cachedTokens })
        }
        await local.close()
        return all.map(({ digests }) => digests)
      }
      const expected = await generate({})
      for (const options of others) expect(await generate(options)).toEqual(expected)
    },
  )
})

it('a random t5 repeats no n-gram that it may not repeat, resumed in the middle too', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'expertmesh-seq2seq-'))
  await writeCheckpoint(dir, seq2seqConfigs.t5, { seed: 11 })
  const local = await openLocal(dir)
  const twice = (ids: readonly number[], n: number): number => {
    const grams = ids.slice(n - 1).map((_, at) => ids.slice(at, at + n).join(' '))
    return grams.length - new Set(grams).size
  }
  const generate = async (noRepeatNgram: number, resume: number[] = []) =>
    (await local.generate(requestOf([0], 60, { source: [3, 5, 9], noRepeatNgram, resume }))).ids
  const plain = await generate(0)
  for (const n of [1, 2, 3]) {
    expect(twice([0, ...plain], n)).toBeGreaterThan(0)
    const ids = await generate(n)
    expect(twice([0, ...ids], n)).toBe(0)
    expect(await generate(n, ids.slice(0, 30))).toEqual(ids.slice(30))
  }
  await local.close()
  await rm(dir, { recursive: true })
})

/** Of positions without an end, so that sequences outgrow a block: one for the source, one and then two for the output. */
describe.each(['t5', 'switch_transformers'] as const)('a random %s in a cache too small', (name) => {
  it('gives the same bits after preemption, in which sources are encoded again', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'expertmesh-seq2seq-'))
    await writeCheckpoint(dir, seq2seqConfigs[name], { seed: 12 })
    const blockBytes = 3 * 2 * 4 * 12 * 128 * 4
    const requests = [0, 1, 2].map((i) => {
      const next = seeded(i + 9)
      const source = Array.from({ length: 40 + 20 * i }, () => next(vocabulary))
      return { source, prompt: [0] }
    })
    const generate = async (options: LocalOptions) => {
      const local = await openLocal(dir, options)
      const all = requests.map(({ source, prompt }) => local.generate(requestOf(prompt, 140, { source })))
      const digests = (await Promise.all(all)).map((generated) => generated.digests)
      const { preempted } = local.counts()
      await local.close()
      return { digests, preempted }
    }
    const roomy = await generate({})
    expect(roomy.preempted).toBe(0)
    const tight = await generate({ kvMemoryBytes: Math.ceil(7.9 * blockBytes) })
    expect(tight.preempted).toBeGreaterThan(0)
    expect(tight.digests).toEqual(roomy.digests)
    await rm(dir, { recursive: true })
  })
})

it('a source whose experts nobody holds fails with the expert named, and disturbs nobody', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'expertmesh-seq2seq-'))
  await writeCheckpoint(dir, seq2seqConfigs.switch_transformers, { seed: 13 })
  // Room for two sequences with their sources: what fails must give its blocks back.
  const local = await openLocal(dir, { kvMemoryBytes: Math.ceil(4.9 * 3 * 2 * 4 * 12 * 128 * 4) })
  const request = (id: number) => requestOf([0], 8, { source: [id, 5, 9] })
  const expected = await local.generate(request(3))
  local.hold(false)
  for (let round = 0; round < 3; round++)
    await expect(local.generate(request(4))).rejects.toThrow(/no worker holds \(layer 1, expert \d\)/)
  local.hold(true)
  const [again, other] = await Promise.all([local.generate(request(3)), local.generate(request(4))])
  expect(again.digests).toEqual(expected.digests)
  expect(other.ids).toHaveLength(8)
  expect(local.counts()).toMatchObject({ waiting: 0, running: 0, preempted: 0 })
  await local.close()
  await rm(dir, { recursive: true })
})

describe('a request that is cancelled while its source is encoded', () => {
  let dir: string
  let local: Local
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'expertmesh-seq2seq-'))
    await writeCheckpoint(dir, seq2seqConfigs.switch_transformers, { seed: 13 })
    local = await openLocal(dir)
  })
  afterAll(async () => {
    await local.close()
    await rm(dir, { recursive: true })
  })
  const request = (id: number, tokens: number) => requestOf([0], tokens, { source: [id, 5, 9] })

  /** Its events, up to the moment its encoder waits for experts that nobody holds. */
  const untilEncoding = async (asked: GenerationRequest): Promise<EngineEvent[]> => {
    const events: EngineEvent[] = []
    await new Promise<void>((resolve) =>
      local.engine.submit(asked, (event) => {
        events.push(event)
        // Told of before its encoder's first layer.
        if (event.kind === 'started') {
          local.hold(false)
          resolve()
        }
      }),
    )
    return events
  }

  it('leaves nothing in the cache and is not heard of again, and a neighbour has its bits', async () => {
    const free = local.freeBlocks()
    const expected = await local.generate(request(3, 40))
    for (let round = 0; round < 3; round++) {
      let neighbour: Promise<Generated> | undefined
      await new Promise<void>((resolve) => {
        neighbour = local.generate(request(3, 40), ({ kind }) => kind === 'token' && resolve())
      })
      const gone = request(4, 40)
      const events = await untilEncoding(gone)
      expect(local.counts().running).toBe(2)
      local.engine.cancel(gone.id)
      local.hold(true)
      expect((await neighbour)?.digests).toEqual(expected.digests)
      expect(events.map(({ kind }) => kind)).toEqual(['started'])
      expect(local.counts()).toMatchObject({ waiting: 0, running: 0, preempted: 0 })
      expect(local.freeBlocks()).toBe(free)
    }
  })

  it('lets a source that is encoded beside it go on', async () => {
    const free = local.freeBlocks()
    const expected = await local.generate(request(6, 8))
    const gone = request(7, 40)
    const events: EngineEvent[] = []
    const beside = local.generate(request(6, 8))
    local.engine.submit(gone, (event) => events.push(event))
    await expect.poll(() => events.length).toBeGreaterThan(0)
    local.engine.cancel(gone.id)
    expect((await beside).digests).toEqual(expected.digests)
    // What is cancelled leaves between two steps.
    await expect.poll(() => local.freeBlocks()).toBe(free)
    expect(events.filter(({ kind }) => kind !== 'token')).toMatchObject([{ kind: 'started' }])
  })
})
