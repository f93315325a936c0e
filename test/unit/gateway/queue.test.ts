import { describe, expect, it } from 'vitest'
import { feed, openQueue } from '../../../services/gateway/queue.ts'
import type { Engine, EngineEvent, GenerationRequest } from '../../../services/gateway/sequence.ts'
import { Code } from '../../../shared/errors.ts'
import { requestOf } from '../../support/local.ts'

const request = (id: string): GenerationRequest => requestOf([97], 16, { id })
const ids = (requests: readonly GenerationRequest[]) => requests.map(({ id }) => id)

describe('the queue', () => {
  it('gives first what came first, and no more than there is room for', async () => {
    const queue = openQueue(10)
    for (const id of ['a', 'b', 'c']) await queue.add(request(id))
    expect(queue.depth()).toBe(3)
    expect(ids(await queue.take(2))).toEqual(['a', 'b'])
    expect(ids(await queue.take(0))).toEqual([])
    expect(ids(await queue.take(-1))).toEqual([])
    expect(ids(await queue.take(9))).toEqual(['c'])
    expect(queue.depth()).toBe(0)
  })

  it('refuses one more than its limit and takes it once there is room', async () => {
    const queue = openQueue(2)
    await queue.add(request('a'))
    await queue.add(request('b'))
    await expect(queue.add(request('c'))).rejects.toMatchObject({
      code: Code.RESOURCE_EXHAUSTED,
      reason: 'rate_limit_exceeded',
    })
    await queue.take(1)
    await queue.add(request('c'))
    expect(ids(await queue.take(9))).toEqual(['b', 'c'])
  })

  it('knows positions and forgets the cancelled', async () => {
    const queue = openQueue(10)
    for (const id of ['a', 'b', 'c']) await queue.add(request(id))
    expect(queue.position('c')).toBe(2)
    expect(queue.cancel('b')).toBe(true)
    expect(queue.cancel('b')).toBe(false)
    expect([queue.position('a'), queue.position('b'), queue.position('c')]).toEqual([0, null, 1])
    expect(ids(await queue.take(9))).toEqual(['a', 'c'])
  })
})

/** An engine that does what the test tells it to. */
const handEngine = () => {
  const running = new Map<string, (event: EngineEvent) => void>()
  const cancelled: string[] = []
  const engine: Engine = {
    submit: ({ id }, onEvent) => running.set(id, onEvent),
    cancel: (id) => {
      cancelled.push(id)
      running.delete(id)
    },
  }
  const end = (id: string): void => {
    const listener = running.get(id)
    running.delete(id)
    listener?.({ kind: 'token', id, index: 0, token: 1, logprob: null, digest: null, finish: 'length' })
  }
  return { engine, running: () => [...running.keys()], cancelled, end, listener: (id: string) => running.get(id)! }
}

/** Every promise that could settle has. */
const settled = () => new Promise((resolve) => setImmediate(resolve))
const deaf = (): void => {}

describe('an engine behind the queue', () => {
  it('works on as many requests as it has room for and goes on when one ends', async () => {
    const hand = handEngine()
    const queue = openQueue(10)
    const intake = feed(hand.engine, queue, 2)
    const heard: string[] = []
    for (const id of ['a', 'b', 'c', 'd']) await intake.submit(request(id), (event) => heard.push(event.id))
    await settled()
    expect(hand.running()).toEqual(['a', 'b'])
    hand.end('b')
    await settled()
    expect(hand.running()).toEqual(['a', 'c'])
    hand.listener('a')({ kind: 'failed', id: 'a', code: Code.UNAVAILABLE, message: 'gone' })
    await settled()
    expect(hand.running()).toContain('d')
    expect(heard).toEqual(['b', 'a'])
    expect(queue.depth()).toBe(0)
  })

  it('refuses what the queue refuses, and counts only the waiting', async () => {
    const hand = handEngine()
    const intake = feed(hand.engine, openQueue(1), 1)
    await intake.submit(request('a'), deaf)
    await settled()
    await intake.submit(request('b'), deaf)
    await expect(intake.submit(request('c'), deaf)).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED })
    hand.end('a')
    await settled()
    expect(hand.running()).toEqual(['b'])
  })

  it('cancels a running request in the engine, a waiting one in the queue, and says no more of either', async () => {
    const hand = handEngine()
    const intake = feed(hand.engine, openQueue(10), 1)
    const heard: string[] = []
    for (const id of ['a', 'b', 'c']) await intake.submit(request(id), (event) => heard.push(event.id))
    await settled()
    const late = hand.listener('a')
    intake.cancel('b')
    intake.cancel('a')
    intake.cancel('unknown')
    await settled()
    expect(hand.cancelled).toEqual(['a'])
    expect(hand.running()).toEqual(['c'])
    late({ kind: 'started', id: 'a', cachedTokens: 0 })
    expect(heard).toEqual([])
  })

  it('does not start a request cancelled on its way to the engine', async () => {
    const hand = handEngine()
    const intake = feed(hand.engine, openQueue(10), 1)
    const accepted = intake.submit(request('a'), deaf)
    intake.cancel('a')
    await accepted
    await settled()
    expect(hand.running()).toEqual([])
  })
})
