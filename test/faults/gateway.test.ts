import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, expect, it, vi } from 'vitest'
import { type Pair, startPair } from '../support/pair.ts'
import { seeded } from '../support/random.ts'
import { describeRedis } from '../support/redis.ts'
import { type Roamed, roam } from '../support/roam.ts'
import { type Ask, answersOf, type Told } from '../support/streams.ts'

const ROUNDS = Number(process.env.FAULT_ROUNDS ?? 20)
const RESUME_MAX_MS = 5_000
const ROUND_LIMIT_MS = 20_000
/** Load during the rounds. */
const CLIENTS = 8

/** Sixteen prompts of unlike length, half of them sampled. */
const asks: readonly Ask[] = Array.from({ length: 16 }, (_, i) => ({
  prompt: ['In the beginning', 'La commande', 'Die Datei', 'const client ='][i % 4].repeat(1 + (i % 3)),
  max_tokens: 120,
  temperature: i % 2,
  ...(i % 2 ? { top_p: 0.9, seed: i } : {}),
}))

let pair: Pair
afterEach(() => pair?.stop())

const same = (told: Roamed, expected: Told | undefined): void => {
  expect(told.ids).toEqual(expected?.ids)
  expect(told.digest).toBe(expected?.digest)
}

/** All asks at once, half of them sent to each gateway; `disturb` begins when every one has a token. */
const undisturbedAnd = async (disturb: () => Promise<void>): Promise<{ told: Roamed[]; atMs: number }> => {
  const expected = await answersOf(pair.urls()[0], asks)
  const begun = new Set<Ask>()
  const running = Promise.all(asks.map((ask, at) => roam(pair.urls, ask, at, () => begun.add(ask))))
  running.catch(() => {})
  await vi.waitUntil(() => begun.size === asks.length, { timeout: 60_000 })
  const atMs = performance.now()
  await disturb()
  const told = await running
  for (const [at, ask] of asks.entries()) same(told[at], expected.get(ask))
  return { told, atMs }
}

/** The longest time without a token of a stream, from `sinceMs` on. */
const longestGap = (told: readonly Roamed[], sinceMs: number): number =>
  Math.max(
    ...told.flatMap(({ atMs }) => atMs.slice(1).map((at, i) => (at > sinceMs ? at - Math.max(atMs[i], sinceMs) : 0))),
  )

describeRedis('a gateway', () => {
  it('killed with sixteen requests in flight costs none of them a token: they go on at the other', async () => {
    pair = await startPair(asks.length)
    const { told, atMs } = await undisturbedAnd(() => pair.kill(0))
    const gap = longestGap(told, atMs)
    const broken = told.filter(({ breaks }) => breaks > 0)
    console.info(`gateway killed: ${broken.length} streams broke, longest stall ${gap.toFixed(0)} ms`)
    expect(broken.length).toBeGreaterThan(0)
    expect(gap).toBeLessThan(RESUME_MAX_MS)
    await pair.settled()
  })

  it('stopped for ten seconds and continued adds nothing twice', async () => {
    pair = await startPair(asks.length)
    const stopped = pair.gateways[0].process
    const { told } = await undisturbedAnd(async () => {
      stopped.kill('SIGSTOP')
      await delay(10_000)
      stopped.kill('SIGCONT')
    })
    await pair.settled()
    // What is kept is what was told, at either gateway.
    for (const url of pair.urls())
      for (const { id, ids } of told) {
        const text = await (await fetch(`${url}/v1/requests/${id}/stream`)).text()
        const kept = [...text.matchAll(/^data: (\{.*)$/gm)].flatMap(([, json]) => JSON.parse(json).choices[0].token_ids)
        expect(kept).toEqual(ids)
      }
  })

  it(
    `killed at random ${ROUNDS} times leaves no request stuck, lost or changed`,
    async () => {
      pair = await startPair(CLIENTS)
      const expected = await answersOf(pair.urls()[0], asks)
      let ending = false
      let completed = 0
      const client = async (from: number): Promise<void> => {
        for (let at = from; !ending; at++) {
          const ask = asks[at % asks.length]
          same(await roam(pair.urls, ask, at), expected.get(ask))
          completed++
        }
      }
      const running = Promise.all(Array.from({ length: CLIENTS }, (_, from) => client(from)))
      running.catch(() => {})
      const next = seeded(Date.now())
      for (let round = 0; round < ROUNDS; round++) {
        const index = next(2)
        await Promise.race([delay(next(2_000)), running])
        await pair.kill(index)
        await pair.start(index)
      }
      ending = true
      await running
      console.info(`${ROUNDS} gateways killed: ${completed} requests completed`)
      expect(completed).toBeGreaterThan(0)
      await pair.settled()
    },
    Math.max(600_000, ROUNDS * ROUND_LIMIT_MS),
  )
})
