/** An encoder–decoder whose experts drop rows by capacity, under the faults of the decoders: its bits depend on the whole source. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest'
import { writeCheckpoint } from '../support/checkpoint.ts'
import { seq2seqConfigs } from '../support/configs.ts'
import { type Fleet, asks as prompts, ready, startFleet, summary } from '../support/fleet.ts'
import { describeGolden, golden } from '../support/goldens.ts'
import { type Pair, startPair } from '../support/pair.ts'
import { seeded } from '../support/random.ts'
import { describeRedis } from '../support/redis.ts'
import { roam } from '../support/roam.ts'
import { type ServiceProcess, startGateway } from '../support/service.ts'
import { type Ask, answersOf, drive, type Told } from '../support/streams.ts'

const CLIENTS = 8
const ROUNDS = 4
const precision = ['--precision', 'fp32']

const sourcesOf = (length: number, vocabulary: number, outputTokens: number): readonly Ask[] =>
  Array.from({ length: 8 }, (_, i) => {
    const next = seeded(i + 1)
    const prompt = Array.from({ length: length + next(length) }, () => next(vocabulary))
    return { prompt, max_tokens: outputTokens, temperature: i % 2, ...(i % 2 ? { top_p: 0.9, seed: i } : {}) }
  })

let fleet: Fleet | null = null
let second: ServiceProcess | null = null
afterEach(async () => {
  await second?.stop()
  await fleet?.stop()
  second = fleet = null
})

describeGolden('switch_transformers', () => {
  // Long sources and one token spend their time in the encoder; short ones and many tokens in the decoder.
  it.each([
    ['encoder', 700, 1],
    ['decoder', 8, 120],
  ] as const)('loses nothing when workers are killed during the %s', async (_, length, outputTokens) => {
    const { dir } = golden('switch_transformers')
    fleet = await startFleet({ workers: 4, replicas: 2, model: dir, gatewayFlags: precision })
    const killed = fleet
    const asks = sourcesOf(length, 256, outputTokens)
    const expected = await answersOf(killed.url, asks)
    const { completed, failures, gapsMs } = await drive(killed.url, asks, expected, {
      clients: CLIENTS,
      during: async () => {
        for (let round = 0; round < ROUNDS; round++) {
          await delay(500)
          await killed.kill(round)
          await killed.start(round)
          await ready(killed, 2)
        }
      },
    })
    console.info(summary('workers killed', gapsMs, completed, failures.length))
    expect(failures).toEqual([])
    expect(completed).toBeGreaterThan(asks.length)
  })

  it('shares workers with a decoder, each with the bits it has alone', async () => {
    const { dir } = golden('switch_transformers')
    fleet = await startFleet({ workers: 2, replicas: 1, workerFlags: ['--models', dir] })
    const named = fleet.addresses.flatMap((address) => ['--worker', address])
    second = await startGateway(['--model', dir, '--threads', '1', ...precision, ...named])
    const sources = sourcesOf(60, 256, 48)
    const pairs = [
      { url: fleet.url, asks: prompts },
      { url: second.address, asks: sources },
    ]
    const alone: Map<Ask, Told>[] = []
    for (const { url, asks } of pairs) alone.push(await answersOf(url, asks))
    let ended = 0
    const together = await Promise.all(
      pairs.map(({ url, asks }, i) =>
        drive(url, asks, alone[i], {
          clients: CLIENTS,
          during: async () => {
            await delay(8_000)
            ended++
            await vi.waitUntil(() => ended === pairs.length)
          },
        }),
      ),
    )
    for (const [i, { completed, failures, gapsMs }] of together.entries()) {
      console.info(summary(i === 0 ? 'the decoder' : 'the encoder–decoder', gapsMs, completed, failures.length))
      expect(failures).toEqual([])
      expect(completed).toBeGreaterThan(0)
    }
  })
})

describeRedis('a gateway of an encoder–decoder whose experts drop rows', () => {
  let dir: string
  let pair: Pair | null = null
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'expertmesh-seq2seq-'))
    await writeCheckpoint(dir, { ...seq2seqConfigs.switch_transformers, expert_capacity: 3 }, { seed: 5 })
  })
  afterEach(() => pair?.stop())
  afterAll(() => rm(dir, { recursive: true, force: true }))

  it('is killed while its answers are written, and they go on at the other with the same bits', async () => {
    pair = await startPair(4, 2, { model: dir, gatewayFlags: precision })
    const { urls } = pair
    const drawn = sourcesOf(40, 128, 120)
    const searched = drawn
      .slice(0, 4)
      .map(({ prompt, max_tokens }) => ({ prompt, max_tokens, temperature: 0, num_beams: 3 }))
    const asks = [...drawn, ...searched]
    const expected = await answersOf(urls()[0], asks)
    const begun = new Set<Ask>()
    const running = Promise.all(asks.map((ask, at) => roam(urls, ask, at, () => begun.add(ask))))
    running.catch(() => {})
    await vi.waitUntil(() => begun.size >= 4, { timeout: 60_000 })
    await pair.kill(0)
    const told = await running
    for (const [at, ask] of asks.entries()) {
      expect(told[at].ids).toEqual(expected.get(ask)?.ids)
      expect(told[at].digest).toBe(expected.get(ask)?.digest)
    }
    expect(told.filter(({ breaks }) => breaks > 0).length).toBeGreaterThan(0)
    await pair.settled()
  })
})
