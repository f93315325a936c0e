import { describe, expect, it } from 'vitest'
import { TurnQueue } from '../../../services/worker/queue.ts'
import { seeded } from '../../support/random.ts'

const drain = <Item>(queue: TurnQueue<string, Item>): Item[] => {
  const items: Item[] = []
  for (let item = queue.take(); item !== undefined; item = queue.take()) items.push(item)
  return items
}

describe('a queue with turns', () => {
  it('lets an owner with one item wait for one item of every other owner at most', () => {
    const queue = new TurnQueue<string, string>()
    for (const item of ['a1', 'a2', 'a3', 'b1', 'c1', 'b2']) queue.push(item[0], item)
    expect(drain(queue)).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3'])
  })

  it('gives an owner who comes back the last turn', () => {
    const queue = new TurnQueue<string, string>()
    for (const item of ['a1', 'b1', 'c1']) queue.push(item[0], item)
    expect(queue.take()).toBe('a1')
    queue.push('a', 'a2')
    expect(drain(queue)).toEqual(['b1', 'c1', 'a2'])
  })

  it('keeps the order of each owner and loses nothing, whatever is pushed, taken and dropped', () => {
    const next = seeded(11)
    for (let round = 0; round < 50; round += 1) {
      const queue = new TurnQueue<number, { owner: number; n: number }>()
      const inside = new Map<number, number[]>([0, 1, 2, 3].map((owner) => [owner, []]))
      let size = 0
      for (let n = 0; n < 200; n += 1) {
        const owner = next(4)
        const action = next(5)
        if (action < 3) {
          queue.push(owner, { owner, n })
          inside.get(owner)?.push(n)
          size += 1
        } else if (action === 3) {
          const item = queue.take()
          expect(item === undefined).toBe(size === 0)
          if (item) expect(item.n).toBe(inside.get(item.owner)?.shift())
          size -= item ? 1 : 0
        } else {
          const dropped = queue.drop((item) => item.owner === owner && item.n % 3 === 0)
          const expected = inside.get(owner)?.filter((m) => m % 3 === 0)
          expect(dropped.map((item) => item.n)).toEqual(expected)
          inside.set(owner, inside.get(owner)?.filter((m) => m % 3 !== 0) ?? [])
          size -= dropped.length
        }
        expect(queue.size).toBe(size)
      }
    }
  })
})
