import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, expect, it, vi } from 'vitest'
import { type Pair, startPair } from '../support/pair.ts'
import { describeRedis } from '../support/redis.ts'
import { roam } from '../support/roam.ts'
import { type Ask, answersOf } from '../support/streams.ts'

/** Shorter and longer than a job's lock lasts. */
const ABSENCES_MS = [1_000, 6_000]

const asks: readonly Ask[] = Array.from({ length: 16 }, (_, i) => ({
  prompt: ['In the beginning', 'La commande', 'Die Datei', 'const client ='][i % 4].repeat(1 + (i % 3)),
  max_tokens: 120,
  temperature: i % 2,
  ...(i % 2 ? { top_p: 0.9, seed: i } : {}),
}))

let pair: Pair
afterEach(() => pair?.stop())

describeRedis('Redis', () => {
  for (const absenceMs of ABSENCES_MS)
    it(`killed under load and started again after ${absenceMs / 1000} s loses nothing that was acknowledged`, async () => {
      // Room for half of the requests: the others wait in the queue.
      pair = await startPair(4)
      const expected = await answersOf(pair.urls()[0], asks)
      const begun = new Set<Ask>()
      const running = Promise.all(asks.map((ask, at) => roam(pair.urls, ask, at, () => begun.add(ask))))
      running.catch(() => {})
      await vi.waitUntil(() => begun.size >= asks.length / 2, { timeout: 60_000 })
      await pair.redis.kill()
      const late = roam(pair.urls, asks[0])
      await delay(absenceMs)
      await pair.redis.restart()
      const told = await running
      for (const [at, ask] of asks.entries()) {
        expect(told[at].ids).toEqual(expected.get(ask)?.ids)
        expect(told[at].digest).toBe(expected.get(ask)?.digest)
      }
      const refused = await late
      expect(refused.refusals).toContain(503)
      expect(refused.ids).toEqual(expected.get(asks[0])?.ids)
      await pair.settled()
    })

  it('being away keeps no gateway from ending, and the one that comes next finishes what it left', async () => {
    pair = await startPair(4, 1)
    const expected = await answersOf(pair.urls()[0], asks.slice(0, 4))
    let tokens = 0
    const running = Promise.all(asks.slice(0, 4).map((ask, at) => roam(pair.urls, ask, at, () => tokens++)))
    running.catch(() => {})
    await vi.waitUntil(() => tokens > 20, { timeout: 60_000 })
    await pair.redis.kill()
    const [{ process: child }] = pair.gateways
    child.kill('SIGTERM')
    await vi.waitUntil(() => child.exitCode !== null, { timeout: 30_000 })
    expect(child.exitCode).toBe(0)
    await pair.redis.restart()
    await pair.start(0)
    for (const [at, told] of (await running).entries()) expect(told.digest).toBe(expected.get(asks[at])?.digest)
    await pair.settled()
  })
})
