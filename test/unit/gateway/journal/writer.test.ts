import { EventEmitter } from 'node:events'
import { describe, expect, it } from 'vitest'
import type { Outcome } from '../../../../services/gateway/journal/journal.ts'
import { HELD_EVENTS_MAX, Writer, type Writes } from '../../../../services/gateway/journal/writer.ts'
import type { EngineEvent } from '../../../../services/gateway/sequence.ts'
import type { RedisClient } from '../../../../shared/redis.ts'

const token = (id: string, index: number, finish: 'length' | null = null): EngineEvent => ({
  kind: 'token',
  id,
  index,
  token: index,
  logprob: null,
  digest: null,
  finish,
})

/** A store the test can take away; it keeps what it is sent. */
const openStore = () => {
  const connection = new EventEmitter()
  const kept = new Map<string, string[]>()
  const batches: string[][] = []
  const errors: Error[] = []
  const store = { away: false, verdict: 'written' as Outcome }
  const send = async (writes: readonly Writes[]): Promise<Outcome[]> => {
    if (store.away) throw new Error('away')
    batches.push(writes.map(({ id }) => id))
    for (const { id, entries } of writes) kept.set(id, [...(kept.get(id) ?? []), ...entries.map(({ place }) => place)])
    return writes.map(() => store.verdict)
  }
  const writer = new Writer(connection as unknown as RedisClient, (error) => errors.push(error), send)
  const back = (): void => {
    store.away = false
    connection.emit('ready')
  }
  return { writer, store, kept, batches, errors, back }
}

describe('writing events', () => {
  it('sends what comes together together', async () => {
    const { writer, kept, batches } = openStore()
    const outcomes = ['a', 'b', 'c'].map((id) => writer.write(id, 1, [token(id, 0), token(id, 1)]))
    expect(await Promise.all(outcomes)).toEqual(['written', 'written', 'written'])
    expect(batches).toEqual([['a', 'b', 'c']])
    expect(kept.get('b')).toEqual(['1-0', '2-0'])
  })

  it('holds what comes while the store is away, and writes it in order when it is back', async () => {
    const { writer, store, kept, errors, back } = openStore()
    store.away = true
    const outcomes = [0, 1, 2].map((index) => writer.write('a', 1, [token('a', index)]))
    await expect.poll(() => errors.length).toBeGreaterThan(0)
    outcomes.push(writer.write('a', 1, [token('a', 3, 'length')]))
    back()
    expect(await Promise.all(outcomes)).toEqual(['written', 'written', 'written', 'written'])
    expect(kept.get('a')).toEqual(['1-0', '2-0', '3-0', '4-0'])
  })

  it('drops what a refused attempt still has, and what an earlier one had', async () => {
    const { writer, store, kept, back } = openStore()
    store.away = true
    const early = writer.write('a', 1, [token('a', 0)])
    const late = writer.write('a', 2, [token('a', 0)])
    expect(await early).toBe('stale')
    store.verdict = 'ended'
    back()
    expect(await late).toBe('ended')
    expect(kept.get('a')).toEqual(['1-0'])
  })

  it('lets go of a sequence that would take more than there is room for, and of no other', async () => {
    const { writer, store, kept, back } = openStore()
    store.away = true
    const events = Array.from({ length: HELD_EVENTS_MAX }, (_, index) => token('a', index))
    const small = writer.write('b', 1, [token('b', 0)])
    const held = writer.write('a', 1, events.slice(1))
    const beyond = writer.write('a', 1, [token('a', HELD_EVENTS_MAX)])
    expect([await held, await beyond]).toEqual(['overflow', 'overflow'])
    back()
    expect(await small).toBe('written')
    expect([...kept.keys()]).toEqual(['b'])
  })

  it('gives what is held a last chance when it closes', async () => {
    const { writer, kept } = openStore()
    const outcome = writer.write('a', 1, [token('a', 0)])
    await writer.close()
    expect([await outcome, kept.get('a')]).toEqual(['written', ['1-0']])
  })
})
