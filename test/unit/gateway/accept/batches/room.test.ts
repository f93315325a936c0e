import { describe, expect, it } from 'vitest'
import { openRoom } from '../../../../../services/gateway/accept/batches/room.ts'
import { seeded } from '../../../../support/random.ts'

const never = new AbortController().signal
/** Every promise that could settle has. */
const settled = () => new Promise((resolve) => setImmediate(resolve))

describe('the places batches share', () => {
  it('go to who came first, though who came later would fit', async () => {
    const room = openRoom(4)
    expect(await room.enter(3, never)).toBe(3)
    const order: string[] = []
    void room.enter(2, never).then(() => order.push('two'))
    void room.enter(1, never).then(() => order.push('one'))
    await settled()
    expect(order).toEqual([])
    room.leave(3)
    await settled()
    expect(order).toEqual(['two', 'one'])
  })

  it('are all given to who asks for more than there are', async () => {
    const room = openRoom(2)
    expect(await room.enter(128, never)).toBe(2)
    room.leave(2)
    expect(await room.enter(1, never)).toBe(1)
  })

  it('are not kept for who gave up', async () => {
    const room = openRoom(2)
    await room.enter(1, never)
    const gone = new AbortController()
    const [first, second] = [room.enter(2, gone.signal), room.enter(1, never)]
    gone.abort()
    expect(await Promise.all([first, second, room.enter(1, gone.signal)])).toEqual([0, 1, 0])
  })

  it('are never more than there are, and nobody waits for ever, in random cases', async () => {
    const next = seeded(3)
    for (let round = 0; round < 50; round++) {
      const places = 1 + next(6)
      const room = openRoom(places)
      let taken = 0
      const visit = async (): Promise<void> => {
        const gone = new AbortController()
        if (next(4) === 0) setImmediate(() => gone.abort())
        const count = await room.enter(1 + next(8), gone.signal)
        taken += count
        expect(taken).toBeLessThanOrEqual(places)
        for (let wait = next(3); wait > 0; wait--) await settled()
        taken -= count
        if (count > 0) room.leave(count)
      }
      await Promise.all(Array.from({ length: 20 }, visit))
      expect(await room.enter(places, never)).toBe(places)
    }
  })
})
