import { expect, it } from 'vitest'
import { submit } from '../../services/gateway/accept/generate.ts'
import { packKept } from '../../services/gateway/accept/kept.ts'
import { acceptCompletion } from '../../services/gateway/accept/request.ts'
import { boardPage } from '../../services/gateway/board.ts'
import { watchStrays } from '../../services/gateway/journal/sweep.ts'
import type { Store } from '../../services/gateway/store.ts'
import { Code, MeshError } from '../../shared/errors.ts'
import { type Api, bodyOf } from '../support/api.ts'
import { idle, setUpGateways, sha256 } from '../support/gateways.ts'
import { requestOf } from '../support/local.ts'
import { describeRedis } from '../support/redis.ts'

const endless = 500_000

describeRedis('gateways on one Redis', () => {
  const { reader, other, open, openByHand } = setUpGateways()

  it('answer whichever engine runs the request', async () => {
    const front = await open(0)
    await open(8, { at: other() })
    const body = { prompt: 'wx', max_tokens: 9, logits_sha256: true, logprobs: 2, echo: true, n: 2 }
    const answer = await bodyOf(await front.post('/v1/completions', body))
    const { digests } = await reader().local.generate(requestOf([256, 119, 120], 9))
    expect(answer.choices[0]).toMatchObject({ text: 'wxyzé€ab', logits_sha256: sha256(digests) })
    await idle(reader())
    const alone = await open(8)
    expect((await bodyOf(await alone.post('/v1/completions', body))).choices).toEqual(answer.choices)
  })

  it('share the queue: who waits is counted and has a place, small priorities first', async () => {
    const a = await open(0, { queueLimit: 3 })
    const b = await open(0, { queueLimit: 3 })
    const send = (api: Api, priority: number) =>
      api.post('/v1/completions', { prompt: 'a', max_tokens: 2, priority, stream: true })
    const ids = []
    for (const [api, priority] of [
      [a, 5],
      [b, 5],
      [a, 1],
    ] as const)
      ids.push((await send(api, priority)).headers.get('x-request-id'))
    const full = await send(b, 0)
    expect([full.status, full.headers.get('retry-after')]).toEqual([429, '1'])
    const placeOf = async (id: string | null) =>
      (await (await fetch(`${b.url}/v1/requests/${id}`)).json()) as { positions: (number | null)[] }
    expect(await Promise.all(ids.map(async (id) => (await placeOf(id)).positions[0]))).toEqual([1, 2, 0])
    expect(await b.intake.waiting()).toBe(3)
    expect((await fetch(`${b.url}/v1/requests/unknown`)).status).toBe(404)
  })

  it('give tenants equal shares, as the rule says, at all gateways together', async () => {
    const [a, b] = [await openByHand(), await openByHand()]
    const accept = async (store: Store, tenant: string, id: string): Promise<number> => {
      const accepted = await store.journal.accept({
        id,
        record: '{}',
        entries: [{ id: `${id}-0`, cost: 640 }],
        tenant,
        priority: 0,
        deadlineMs: null,
        key: null,
        attached: false,
      })
      return accepted.joined ? -1 : accepted.ranks[0]
    }
    const flood = []
    for (let at = 0; at < 4; at++) flood.push(await accept(at % 2 ? a : b, 'flood', `f${at}`))
    expect(flood).toEqual([1, 11, 21, 31])
    expect(await accept(b, 'quiet', 'q0')).toBe(1)
    await a.journal.begin('f2-0')
    expect(await accept(b, 'new', 'n0')).toBe(21)
  })

  it('keep places for other tenants, and refuse a flood without asking until a place comes free', async () => {
    const [a, b] = [await openByHand(), await openByHand()]
    const accept = async (store: Store, tenant: string, id: string): Promise<string> => {
      const entries = [{ id: `${id}-0`, cost: 10 }]
      const order = { id, record: '{}', entries, tenant, priority: 0, deadlineMs: null, key: null, attached: false }
      return store.journal.accept(order).then(
        () => 'accepted',
        (error) => error.message,
      )
    }
    // As many of 100 places as the rule gives one tenant.
    for (let at = 0; at < 89; at++) expect(await accept(at % 2 ? a : b, 'flood', `f${at}`)).toBe('accepted')
    expect(await accept(a, 'flood', 'more')).toContain('89 requests of this key')
    expect(a.journal.turnAway('flood')?.message).toContain('89 requests of this key')
    expect(a.journal.turnAway('quiet')).toBe(null)
    expect(await accept(a, 'quiet', 'q')).toBe('accepted')
    await a.journal.begin('f0-0')
    await b.journal.end(['f1-0'], new MeshError(Code.CANCELLED, 'left'))
    expect(a.journal.turnAway('flood')).toBe(null)
    expect(await accept(a, 'flood', 'next')).toBe('accepted')
  })

  it('cancel what runs at another gateway when the client leaves, and what waits', async () => {
    const front = await open(0)
    await open(1, { at: other() })
    const leave = new AbortController()
    const ask = (prompt: string) =>
      front.client.completions.create(
        { model: '', prompt, max_tokens: endless, stream: true },
        { signal: leave.signal },
      )
    const stream = await ask('abc')
    // Leaving a loop over the stream would end it.
    await stream[Symbol.asyncIterator]().next()
    await expect.poll(() => other().local.counts().running).toBe(1)
    await ask('x')
    expect(await front.intake.waiting()).toBe(1)
    leave.abort()
    await idle(other())
    await expect.poll(() => front.intake.waiting()).toBe(0)
  })

  it('show the queue to the operator alone', async () => {
    const { queue } = await openByHand()
    await queue.add([{ request: requestOf([97], 4, { id: 'shown' }), rank: 7, deadlineAt: null }])
    const plugin = boardPage('/admin/queues', [queue])
    if (!plugin) throw new Error('a queue in Redis has a board')
    const admin = { token: 'secret', pages: [{ path: '/queues', plugin }] }
    const { url } = await open(0, { admin, token: 'users' })
    const get = async (path: string, authorization: string) => {
      const response = await fetch(url + path, { headers: { authorization } })
      return { status: response.status, text: await response.text() }
    }
    const basic = `Basic ${Buffer.from('anyone:secret').toString('base64')}`
    expect((await get('/admin/queues', basic)).text).toContain('<title>')
    const jobs = await get('/admin/queues/api/queues', 'Bearer secret')
    expect(jobs.text).toContain('"prioritized":1')
    for (const wrong of ['', 'Bearer users', 'Bearer secrets', 'Basic ='])
      for (const path of ['/admin/queues', '/admin/queues/api/queues', '/admin/queues/static/favicon.ico'])
        expect([wrong, path, (await get(path, wrong)).status]).toEqual([wrong, path, 401])
    const { url: without } = await open(0)
    expect((await fetch(`${without}/admin/queues`)).status).toBe(404)
    expect((await fetch(`${without}/admin/queues/api/queues`)).status).toBe(404)
  })

  it('answer DEADLINE_EXCEEDED and never run what comes too late', async () => {
    const front = await open(0)
    const late = await front.post('/v1/completions', { prompt: 'a', deadline_ms: 50 })
    expect([late.status, (await bodyOf(late)).error.message]).toEqual([504, expect.stringContaining('deadline')])
    const store = await openByHand()
    const request = requestOf([97], 4, { id: 'late-0' })
    const submission = { id: 'late', record: '{}', entries: [{ id: 'late-0', cost: 5 }], tenant: '', priority: 0 }
    await store.journal.accept({ ...submission, deadlineMs: 1_000, key: null, attached: false })
    await store.queue.add([{ request, rank: 1, deadlineAt: Date.now() - 1 }])
    const api = await open(8, { at: other() })
    const failed = await new Promise((resolve) => api.intake.follow('late-0', resolve))
    expect(failed).toMatchObject({ kind: 'failed', code: Code.DEADLINE_EXCEEDED })
  })

  it('say when to come back where the wait would outlast the deadline', async () => {
    const front = await open(0)
    const store = await openByHand()
    store.journal.reportSpeed(100)
    const body = { prompt: 'a', max_tokens: 998, stream: true }
    expect((await front.post('/v1/completions', body)).status).toBe(200)
    const refused = await front.post('/v1/completions', { ...body, deadline_ms: 5_000 })
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '10'])
    expect((await front.post('/v1/completions', { ...body, deadline_ms: 15_000 })).status).toBe(200)
  })

  it('forget what a gateway accepted and died before queueing', async () => {
    const { journal, queue } = await openByHand()
    const rest = { tenant: '', priority: 0, deadlineMs: null, key: null, attached: true }
    const request = requestOf([97], 4, { id: 'queued-0' })
    for (const id of ['lost', 'queued'])
      await journal.accept({ id, record: '{}', entries: [{ id: `${id}-0`, cost: 5 }], ...rest })
    await queue.add([{ request, rank: 1, deadlineAt: null }])
    const failed = new Promise((resolve) => journal.follow('lost-0', resolve))
    const unwatch = watchStrays(journal, queue, (error) => expect.unreachable(String(error)), 20)
    expect(await failed).toMatchObject({ kind: 'failed', code: Code.UNAVAILABLE })
    unwatch()
    expect(await journal.waitingIds()).toEqual(['queued-0'])
  })

  it('queue what a gateway accepted and died before queueing when its sender asks again', async () => {
    const { journal } = await openByHand()
    const work = acceptCompletion(other().served, { prompt: 'a', max_tokens: 4 }, 'cmpl-first')
    const kept = { work, created: 0, deadlineAt: null, tenant: 'me' }
    const entries = work.requests.map(({ id }) => ({ id, cost: 5 }))
    const key = { name: 'key', body: 'body' }
    const rest = { tenant: 'me', priority: 0, deadlineMs: null, key, attached: true }
    await journal.accept({ id: 'first', record: packKept(kept), entries, ...rest })
    const api = await open(1, { at: other() })
    const again = { ...work, id: 'cmpl-second' }
    expect(await submit(api, again, { tenant: 'me', key }, true)).toMatchObject({ joined: true, kept })
    await expect.poll(() => api.intake.waiting()).toBe(0)
    const last = new Promise((resolve) => {
      api.intake.follow(work.requests[0].id, (event) => {
        if (event.kind === 'failed' || (event.kind === 'token' && event.finish)) resolve(event)
      })
    })
    expect(await last).toMatchObject({ kind: 'token', finish: 'length' })
  })

  it('finish what needs no reader, whoever looked in meanwhile', async () => {
    const front = await open(0)
    await open(1, { at: other() })
    const { served } = other()
    const work = acceptCompletion(served, { prompt: 'a', max_tokens: 40 }, 'gen-lasting')
    const { kept } = await submit(front, work, { tenant: 'batch', key: null }, false)
    front.intake.attach('lasting')
    front.intake.leave('lasting', 0)
    const last = new Promise((resolve) => {
      front.intake.follow(kept.work.requests[0].id, (event) => {
        if (event.kind === 'failed' || (event.kind === 'token' && event.finish)) resolve(event)
      })
    })
    expect(await last).toMatchObject({ kind: 'token', index: 39, finish: 'length' })
  })
})
