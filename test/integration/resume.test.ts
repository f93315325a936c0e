import { expect, it } from 'vitest'
import { Code } from '../../shared/errors.ts'
import { eventsOf, openApi } from '../support/api.ts'
import { chunksOf, setUpGateways, sha256 } from '../support/gateways.ts'
import { greedy, requestOf } from '../support/local.ts'
import { describeRedis } from '../support/redis.ts'

describeRedis('attempts at a request', () => {
  const { reader, other, redis, open, openStore, openByHand } = setUpGateways()

  it('refuse a writer whose attempt is over, and keep each token once', async () => {
    const [old, now] = [await openByHand(), await openByHand()]
    const entries = [{ id: 'r-0', cost: 5 }]
    const rest = { tenant: '', priority: 0, deadlineMs: null, key: null, attached: false }
    await old.journal.accept({ id: 'r', record: '{}', entries, ...rest })
    const token = (index: number, finish: 'length' | null = null) =>
      ({ kind: 'token', id: 'r-0', index, token: 100 + index, logprob: null, digest: null, finish }) as const
    const first = await old.journal.begin('r-0')
    expect(first).toEqual({ number: 1, fruitless: 1, tokens: [] })
    expect(await old.journal.append('r-0', 1, [{ kind: 'started', id: 'r-0', cachedTokens: 0 }, token(0)])).toBe(
      'written',
    )
    // What is there already is refused by Redis and harmless.
    expect(await old.journal.append('r-0', 1, [token(0), token(1)])).toBe('written')
    expect(await now.journal.begin('r-0')).toEqual({ number: 2, fruitless: 1, tokens: [100, 101] })
    expect(await old.journal.append('r-0', 1, [token(2)])).toBe('stale')
    expect(await now.journal.append('r-0', 2, [token(2), token(3, 'length')])).toBe('written')
    expect(await old.journal.append('r-0', 1, [token(3)])).toBe('ended')
    expect(await now.journal.begin('r-0')).toBe(null)
    const heard: number[] = []
    old.journal.follow('r-0', (event) => void (event.kind === 'token' && heard.push(event.token)))
    await expect.poll(() => heard).toEqual([100, 101, 102, 103])
  })

  it('give a request up that took down whoever ran it, and only then', async () => {
    const store = await openByHand()
    const rest = { tenant: '', priority: 0, deadlineMs: null, key: null, attached: false }
    await store.journal.accept({ id: 'p', record: '{}', entries: [{ id: 'p-0', cost: 5 }], ...rest })
    for (const fruitless of [1, 2, 3]) expect(await store.journal.begin('p-0')).toMatchObject({ fruitless })
    await store.queue.add([{ request: requestOf([97], 4, { id: 'p-0' }), rank: 1, deadlineAt: null }])
    const api = await open(8)
    const failed = await new Promise((resolve) => api.intake.follow('p-0', resolve))
    expect(failed).toMatchObject({ kind: 'failed', code: Code.INTERNAL, message: expect.stringContaining('p-0') })
  })

  it('go on from the tokens that are written, with the same ids and digests', async () => {
    const samplings = {
      greedy,
      seeded: { ...greedy, temperature: 1, seed: 9n, presencePenalty: 1.5, repetitionPenalty: 1.2 },
    }
    for (const [name, sampling] of Object.entries(samplings)) {
      const whole = requestOf([256, 48, 50, 70, 33], 24, { sampling, logprobs: 2 })
      const { ids, digests, events } = await reader().local.generate(whole)
      for (const length of [1, 7, 23]) {
        const id = `${name}-${length}`
        const resumed = await other().local.generate({ ...whole, id, resume: ids.slice(0, length) })
        expect(resumed.ids).toEqual(ids.slice(length))
        expect(resumed.digests).toEqual(digests.slice(length))
        const tokens = (of: typeof events) =>
          of.filter((event) => event.kind === 'token').map((event) => ({ ...event, id: '' }))
        expect(tokens(resumed.events)).toEqual(tokens(events).slice(length))
      }
    }
  })

  it('hand a running request over when one of them closes', async () => {
    const front = await open(0)
    const first = await openApi(reader(), { served: reader().endless, room: 1, store: await openStore() })
    const body = { prompt: 'a', max_tokens: 3_000, stream: true, logits_sha256: true }
    const response = await front.post('/v1/completions', body)
    await expect.poll(() => reader().local.counts().running).toBe(1)
    await first.close()
    // It was given back: nobody has to wait for a lock to run out.
    const keys = await redis().client.keys('expertmesh:requests-*:active')
    expect(await Promise.all(keys.map((key) => redis().client.llen(key)))).toEqual(keys.map(() => 0))
    await open(1, { at: other() })
    const events = await eventsOf(response)
    expect(chunksOf(events).find(({ error }) => error)).toBe(undefined)
    expect(events.map(({ id }) => id).slice(0, 3_000)).toEqual(Array.from({ length: 3_000 }, (_, at) => String(at)))
    const { digests } = await other().local.generate(requestOf([256, 97], 3_000))
    expect(chunksOf(events).at(-1).choices[0].logits_sha256).toBe(sha256(digests))
  })

  it('go on generating while Redis is away, refuse new requests, and serve again when it is back', async () => {
    const api = await open(2)
    const body = { prompt: 'a', max_tokens: 4_000, stream: true, logits_sha256: true }
    const response = await api.post('/v1/completions', body)
    let heard = 0
    const events = eventsOf(response, () => heard++)
    await expect.poll(() => heard).toBeGreaterThan(5)
    await redis().kill()
    const before = heard
    await expect.poll(() => heard).toBeGreaterThan(before + 50)
    const refused = await api.post('/v1/completions', { prompt: 'b', max_tokens: 2 })
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1'])
    await redis().restart()
    const { digests } = await other().local.generate(requestOf([256, 97], 4_000))
    const told = chunksOf(await events)
    expect(told).toHaveLength(4_000)
    expect(told.at(-1).choices[0].logits_sha256).toBe(sha256(digests))
    const id = response.headers.get('x-request-id')
    const again = await eventsOf(await fetch(`${api.url}/v1/requests/${id}/stream`))
    expect(again.filter((event) => event.id !== undefined)).toHaveLength(4_000)
    await expect.poll(async () => (await api.post('/v1/completions', { prompt: 'b', max_tokens: 2 })).status).toBe(200)
  })
})
