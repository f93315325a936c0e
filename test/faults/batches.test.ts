import { setTimeout as delay } from 'node:timers/promises'
import OpenAI from 'openai'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { bodyOf } from '../support/api.ts'
import { createBatch, lineOf, type ResultLine, resultsOf, untilEnded } from '../support/batches.ts'
import { type Pair, startPair } from '../support/pair.ts'
import { describeRedis } from '../support/redis.ts'

/** Sequences a gateway has room for; half of them may be of batches. */
const ROOM = 8
const LINES = 60
/** From the death of a gateway to the next result of its batch at another. */
const TAKE_OVER_MAX_MS = 10_000
/** Longer than a lease and a job's lock last. */
const STOPPED_MS = 6_000
const BATCH_LIMIT_MS = 240_000

const bodies = Array.from({ length: LINES }, (_, i) => ({
  prompt: ['In the beginning', 'La commande', 'Die Datei', 'const client ='][i % 4].repeat(1 + (i % 3)),
  max_tokens: 24 + (i % 40),
  temperature: i % 2,
  ignore_eos: true,
  logits_sha256: true,
  n: i % 10 === 0 ? 2 : 1,
  ...(i % 2 ? { top_p: 0.9, seed: i } : {}),
}))

let pair: Pair
const clientAt = (index: number): OpenAI =>
  new OpenAI({ baseURL: `${pair.urls()[index]}/v1`, apiKey: 'none', maxRetries: 5, timeout: 30_000 })

const completedAt = async (client: OpenAI, id: string): Promise<number> =>
  (await client.batches.retrieve(id)).request_counts?.completed ?? 0

/** A batch on which gateway 0 works: the other hears nothing of it before some lines are answered. */
const beginAtFirst = async (): Promise<string> => {
  const { process: other } = pair.gateways[1]
  other.kill('SIGSTOP')
  const { id } = await createBatch(
    clientAt(0),
    bodies.map((body, line) => lineOf(`line ${line}`, body)),
  )
  await expect.poll(() => completedAt(clientAt(0), id), { timeout: 60_000, interval: 50 }).toBeGreaterThan(3)
  other.kill('SIGCONT')
  await clientAt(1).batches.retrieve(id)
  return id
}

/** Downloads the results at gateway 1: every line once, and equal to the answer to a request of its own; all at their first attempt. */
const expectAll = async (id: string): Promise<void> => {
  const results = await expectAllAnswered(id)
  expect(results.map(({ response }) => response?.request_id)).toEqual(bodies.map((_, line) => `${id}-${line}`))
}

const expectAllAnswered = async (id: string): Promise<ResultLine[]> => {
  const client = clientAt(1)
  const batch = await untilEnded(client, id, BATCH_LIMIT_MS)
  expect(batch).toMatchObject({ status: 'completed', request_counts: { total: LINES, completed: LINES, failed: 0 } })
  expect(batch.error_file_id).toBe(undefined)
  const results = await resultsOf(client, batch.output_file_id)
  expect(results.map(({ custom_id }) => custom_id)).toEqual(bodies.map((_, line) => `line ${line}`))
  for (const [line, { response }] of results.entries()) {
    const direct = await fetch(`${pair.urls()[1]}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(bodies[line]),
    })
    expect(response?.body.choices).toEqual((await bodyOf(direct)).choices)
  }
  await pair.settled()
  return results
}

beforeEach(async () => {
  pair = await startPair(ROOM)
})
afterEach(() => pair?.stop())

describeRedis('a batch', () => {
  it('uploaded and begun at a gateway that is killed is finished by another and downloaded there', async () => {
    const id = await beginAtFirst()
    await pair.kill(0)
    const client = clientAt(1)
    const [killedAt, before] = [performance.now(), await completedAt(client, id)]
    expect(before).toBeLessThan(LINES)
    await expect
      .poll(() => completedAt(client, id), { timeout: TAKE_OVER_MAX_MS, interval: 50 })
      .toBeGreaterThan(before)
    const tookMs = performance.now() - killedAt
    console.info(
      `gateway killed with ${before} of ${LINES} lines answered: the next came after ${tookMs.toFixed(0)} ms`,
    )
    await expectAll(id)
  })

  it('has nothing twice when its gateway was stopped, another took over, and the first one woke up', async () => {
    const id = await beginAtFirst()
    const { process: first } = pair.gateways[0]
    first.kill('SIGSTOP')
    const before = await completedAt(clientAt(1), id)
    await delay(STOPPED_MS)
    const meanwhile = await completedAt(clientAt(1), id)
    first.kill('SIGCONT')
    expect(meanwhile).toBeGreaterThan(before)
    expect(meanwhile).toBeLessThan(LINES)
    await expectAll(id)
  })

  it('goes on when Redis was killed and is back', async () => {
    const id = await beginAtFirst()
    await pair.redis.kill()
    await delay(STOPPED_MS)
    await pair.redis.restart()
    // What was accepted and could not be queued any more is tried again.
    await expectAllAnswered(id)
  })
})
