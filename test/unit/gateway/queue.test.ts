import { describe, expect, it } from 'vitest'
import { type Job, openQueue, type Verdict } from '../../../services/gateway/queue.ts'
import { requestOf } from '../../support/local.ts'

const job = (id: string, rank = 1): Job => ({ request: requestOf([97], 16, { id }), rank, deadlineAt: null })

/** Every promise that could settle has. */
const settled = () => new Promise((resolve) => setImmediate(resolve))

/** Takes jobs and ends them when the test says so. */
const hand = () => {
  const running = new Map<string, (verdict: Verdict) => void>()
  return {
    run: ({ request }: Job) => new Promise<Verdict>((resolve) => running.set(request.id, resolve)),
    running: () => [...running.keys()],
    async end(id: string, verdict: Verdict = 'done') {
      const resolve = running.get(id)
      running.delete(id)
      resolve?.(verdict)
      await settled()
    },
  }
}

describe('the queue', () => {
  it('gives first what came first, and no more than there is room for', async () => {
    const queue = openQueue()
    const { run, running, end } = hand()
    await queue.add(['a', 'b', 'c', 'd'].map((id) => job(id)))
    expect(await queue.position('c')).toBe(2)
    queue.serve(2, run)
    expect(running()).toEqual(['a', 'b'])
    expect([await queue.position('a'), await queue.position('c'), await queue.position('d')]).toEqual([null, 0, 1])
    await end('b')
    expect(running()).toEqual(['a', 'c'])
  })

  it('gives smaller ranks first, and equal ones as they came', async () => {
    const queue = openQueue()
    const { run, running, end } = hand()
    queue.serve(1, run)
    await queue.add([job('first', 9), job('late', 5), job('b', 3), job('c', 3), job('a', 2)])
    const order = []
    for (let at = 0; at < 5; at++) {
      order.push(running()[0])
      await end(running()[0])
    }
    expect(order).toEqual(['a', 'b', 'c', 'late', 'first'])
  })

  it('forgets what is removed, and leaves alone what runs', async () => {
    const queue = openQueue()
    const { run, running, end } = hand()
    queue.serve(1, run)
    await queue.add([job('a'), job('b'), job('c')])
    await queue.remove(['a', 'b', 'unknown'])
    expect(running()).toEqual(['a'])
    await end('a')
    expect(running()).toEqual(['c'])
  })

  it('takes a job once, and again when it is given back', async () => {
    const queue = openQueue()
    const { run, running, end } = hand()
    await queue.add([job('a'), job('a')])
    queue.serve(9, run)
    expect(running()).toEqual(['a'])
    await end('a', 'again')
    expect(running()).toEqual(['a'])
    await end('a')
    expect(running()).toEqual([])
  })

  it('gives nothing once it closes', async () => {
    const queue = openQueue()
    const { run, running, end } = hand()
    queue.serve(1, run)
    await queue.add([job('a'), job('b')])
    const closed = queue.close()
    await end('a')
    await closed
    expect(running()).toEqual([])
  })
})
