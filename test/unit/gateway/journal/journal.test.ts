import { describe, expect, it } from 'vitest'
import { Follower, isEnd, placeOf } from '../../../../services/gateway/journal/journal.ts'
import { MemoryJournal } from '../../../../services/gateway/journal/memory.ts'
import type { EngineEvent } from '../../../../services/gateway/sequence.ts'
import { Code, MeshError } from '../../../../shared/errors.ts'
import { seeded } from '../../../support/random.ts'

const id = 'r-0'
const token = (index: number, finish: 'length' | null = null): EngineEvent => ({
  kind: 'token',
  id,
  index,
  token: 100 + index,
  logprob: null,
  digest: null,
  finish,
})
const started: EngineEvent = { kind: 'started', id, cachedTokens: 0 }
const failed: EngineEvent = { kind: 'failed', id, code: Code.INTERNAL, message: 'broken' }
const scored = (begin: number, count: number): EngineEvent => ({
  kind: 'prompt',
  id,
  begin,
  logprobs: new Array(count).fill(null),
})

describe('places', () => {
  it('are in the order in which events come', () => {
    const events = [started, scored(0, 1), scored(1, 300), scored(301, 1), token(0), token(1), token(1_000_000), failed]
    const places = events.map(placeOf)
    for (let at = 1; at < places.length; at++) {
      const [[major, minor], [before, minorBefore]] = [places[at], places[at - 1]]
      expect(major > before || (major === before && minor > minorBefore)).toBe(true)
    }
  })
})

describe('a follower', () => {
  it('passes on every event once and in order, however often and late its sources tell them', () => {
    const next = seeded(3)
    for (let round = 0; round < 300; round++) {
      const length = 1 + next(30)
      const events = [started, ...Array.from({ length }, (_, at) => token(at, at === length - 1 ? 'length' : null))]
      const heard: EngineEvent[] = []
      const follower = new Follower(id, (event) => heard.push(event))
      const sources = [0, 0, 0]
      while (!heard.some(isEnd)) {
        const source = next(sources.length)
        // A source tells what comes next, or falls back; it never skips, but others may be behind it.
        const event = events[sources[source]]
        if (follower.take(event) === 'gap') sources[source] = next(sources[source] + 1)
        else
          sources[source] = next(5) === 0 ? next(sources[source] + 1) : Math.min(sources[source] + 1, events.length - 1)
      }
      expect(heard).toEqual(events)
    }
  })

  it('says where tokens are missing', () => {
    const heard: EngineEvent[] = []
    const follower = new Follower(id, (event) => heard.push(event))
    expect(
      [token(0), token(2), token(0), token(1), token(2), failed, failed].map((event) => follower.take(event)),
    ).toEqual(['passed', 'gap', 'known', 'passed', 'passed', 'passed', 'known'])
    expect(heard).toEqual([token(0), token(1), token(2), failed])
  })
})

describe('the journal of one process', () => {
  const submission = (name: string, more: object = {}) => ({
    id: name,
    record: `record of ${name}`,
    entries: [{ id: `${name}-0`, cost: 100 }],
    tenant: '',
    priority: 0,
    deadlineMs: null,
    key: null,
    attached: true,
    ...more,
  })
  const ended = async (journal: MemoryJournal, name: string, tokens = 1): Promise<void> => {
    await journal.accept(submission(name))
    const attempt = await journal.begin(`${name}-0`)
    const events = Array.from({ length: tokens }, (_, at) => token(at, at === tokens - 1 ? 'length' : null))
    await journal.append(`${name}-0`, attempt?.number ?? 0, events)
  }

  it('refuses what an earlier attempt writes, and counts attempts that bring nothing', async () => {
    const journal = new MemoryJournal(10, 60_000)
    await journal.accept(submission('r'))
    expect(await journal.begin(id)).toEqual({ number: 1, fruitless: 1, tokens: [] })
    expect(await journal.append(id, 1, [started, token(0)])).toBe('written')
    expect(await journal.begin(id)).toEqual({ number: 2, fruitless: 1, tokens: [100] })
    expect(await journal.append(id, 1, [token(1)])).toBe('stale')
    expect(await journal.begin(id)).toEqual({ number: 3, fruitless: 2, tokens: [100] })
    await journal.release(id)
    expect(await journal.begin(id)).toEqual({ number: 4, fruitless: 2, tokens: [100] })
    expect(await journal.append(id, 4, [token(1, 'length')])).toBe('written')
    expect(await journal.append(id, 4, [failed])).toBe('ended')
    expect(await journal.begin(id)).toBe(null)
    await journal.close()
  })

  it('refuses one more than may wait, and what would wait beyond its deadline', async () => {
    const journal = new MemoryJournal(2, 60_000)
    journal.reportSpeed(50)
    await journal.accept(submission('a'))
    const refused = journal.accept(submission('b', { deadlineMs: 1_000 }))
    await expect(refused).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED, retryAfterSeconds: 2 })
    await journal.accept(submission('b', { deadlineMs: 3_000 }))
    const full = journal.accept(submission('c'))
    await expect(full).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED, reason: 'rate_limit_exceeded' })
    await journal.begin('a-0')
    await journal.accept(submission('c'))
    expect(await journal.waitingIds()).toEqual(['b-0', 'c-0'])
    await journal.close()
  })

  it('tells a tenant that it has its share of the places, and takes others', async () => {
    const journal = new MemoryJournal(18, 60_000)
    for (let at = 0; at < 16; at++) {
      expect(journal.turnAway('flood')).toBe(null)
      await journal.accept(submission(`f${at}`, { tenant: 'flood' }))
    }
    expect(journal.turnAway('flood')?.message).toContain('16 requests of this key')
    await expect(journal.accept(submission('f', { tenant: 'flood' }))).rejects.toMatchObject({
      code: Code.RESOURCE_EXHAUSTED,
    })
    await journal.accept(submission('q', { tenant: 'quiet' }))
    await journal.begin('f0-0')
    await journal.begin('f1-0')
    expect(journal.turnAway('flood')).toBe(null)
    await journal.close()
  })

  it('joins what comes with the same key and body', async () => {
    const journal = new MemoryJournal(10, 60_000)
    const key = { name: 'k', body: 'b' }
    expect(await journal.accept(submission('a', { key }))).toMatchObject({ joined: false })
    expect(await journal.accept(submission('b', { key }))).toEqual({ joined: true, record: 'record of a' })
    const other = journal.accept(submission('c', { key: { ...key, body: 'other' } }))
    await expect(other).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT })
    expect(await journal.find('b')).toBe(null)
    await journal.close()
  })

  it('ends what its last reader leaves, unless it needs none', async () => {
    const journal = new MemoryJournal(10, 60_000)
    const heard: string[] = []
    journal.onEnded((one) => heard.push(one))
    await journal.accept(submission('read'))
    await journal.accept(submission('lasting', { attached: false }))
    journal.attach('read')
    journal.attach('lasting')
    journal.leave('read', 0)
    journal.leave('lasting', 0)
    expect(heard).toEqual([])
    journal.leave('read', 0)
    expect(heard).toEqual(['read-0'])
    expect(await journal.begin('read-0')).toBe(null)
    await journal.close()
  })

  it('tells followers of the end from outside, and forgets the oldest of what has ended', async () => {
    const journal = new MemoryJournal(10, 60_000)
    await journal.accept(submission('running'))
    const heard: EngineEvent[] = []
    journal.follow('running-0', (event) => heard.push(event))
    for (const name of ['a', 'b', 'c']) await ended(journal, name, 30_000)
    expect([await journal.find('a'), await journal.find('b')]).toEqual([null, 'record of b'])
    expect(await journal.find('running')).toBe('record of running')
    await journal.end(['running-0', 'unknown'], new MeshError(Code.CANCELLED, 'enough'))
    expect(heard).toEqual([{ kind: 'failed', id: 'running-0', code: Code.CANCELLED, message: 'enough' }])
    await journal.close()
  })
})
