import { expect, it } from 'vitest'
import { bodyOf, eventsOf } from '../support/api.ts'
import { chunksOf, idle, setUpGateways } from '../support/gateways.ts'
import { describeRedis } from '../support/redis.ts'

const endless = 500_000

describeRedis('readers of a request', () => {
  const { other, open } = setUpGateways()

  it('go on for the grace that was asked for, and end when nobody comes back', async () => {
    const front = await open(0)
    await open(1, { at: other() })
    const body = { prompt: 'abc', max_tokens: endless, stream: true, reconnect_grace_seconds: 1 }
    const leave = new AbortController()
    const response = await fetch(`${front.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: leave.signal,
    })
    await response.body?.getReader().read()
    leave.abort()
    expect(other().local.counts().running).toBe(1)
    await idle(other())
  })

  it('let a reader come back anywhere and go on behind its last event', async () => {
    const front = await open(0)
    const running = await open(8, { at: other() })
    const body = { prompt: ['w', 'a'], max_tokens: 12, stream: true, logprobs: 1, echo: true, logits_sha256: true }
    const response = await front.post('/v1/completions', { ...body, stream_options: { include_usage: true } })
    const id = response.headers.get('x-request-id')
    const events = await eventsOf(response)
    const ids = events.map((event) => event.id)
    for (const api of [front, running])
      for (let at = 0; at < events.length; at += 5) {
        if (ids[at] === undefined) continue
        const headers = { 'last-event-id': String(ids[at]) }
        const rest = await eventsOf(await fetch(`${api.url}/v1/requests/${id}/stream`, { headers }))
        const had = String(ids[at]).split(',')
        // Choices come side by side, so their order may differ; each is whole.
        for (const choice of [0, 1]) {
          const of = (from: typeof events) => chunksOf(from).filter(({ choices }) => choices[0]?.index === choice)
          const before = had[choice] === '' ? 0 : had[choice] === 'p' ? 1 : Number(had[choice]) + 2
          expect(of(rest)).toEqual(of(events).slice(before))
        }
        expect(chunksOf(rest).at(-1)).toEqual(chunksOf(events).at(-1))
        expect(rest.at(-1)?.data).toBe('[DONE]')
      }
    const wrong = await fetch(`${front.url}/v1/requests/${id}/stream`, { headers: { 'last-event-id': '3' } })
    expect(wrong.status).toBe(400)
    expect((await fetch(`${front.url}/v1/requests/none/stream`)).status).toBe(404)
  })

  it('join requests of one Idempotency-Key, and refuse it with another body', async () => {
    const [a, b] = [await open(0), await open(8, { at: other() })]
    const body = { prompt: 'abc', max_tokens: 30, temperature: 1 }
    const headers = { 'idempotency-key': 'once' }
    const [first, second] = await Promise.all([
      a.post('/v1/completions', body, headers),
      b.post('/v1/completions', body, headers),
    ])
    expect(second.headers.get('x-request-id')).toBe(first.headers.get('x-request-id'))
    expect(await second.json()).toEqual(await first.json())
    const refused = await b.post('/v1/completions', { ...body, max_tokens: 31 }, headers)
    expect([refused.status, (await bodyOf(refused)).error.message]).toEqual([
      400,
      expect.stringContaining('another body'),
    ])
    const alone = await a.post(
      '/v1/completions',
      { ...body, max_tokens: 31 },
      { ...headers, authorization: 'Bearer b' },
    )
    expect(alone.status).toBe(200)
    const stranger = `${a.url}/v1/requests/${first.headers.get('x-request-id')}/stream`
    expect((await fetch(stranger, { headers: { authorization: 'Bearer b' } })).status).toBe(404)
  })
})
