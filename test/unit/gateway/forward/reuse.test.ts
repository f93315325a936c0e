import { describe, expect, it } from 'vitest'
import { minimumReuse } from '../../../../services/gateway/forward/cache.ts'
import { blockRows, breakOff, cacheOf, checkRows, complete, numbers, run } from '../../../support/cache.ts'

describe('prefix reuse', () => {
  it('finds the longest prefix among live and finished sequences', () => {
    const cache = cacheOf(10)
    complete(cache, 'live', [...numbers(60), ...numbers(100, 5000)])
    complete(cache, 'done', [...numbers(40), ...numbers(100, 7000)])
    cache.release('done', { retain: true, ids: [...numbers(40), ...numbers(100, 7000)] })
    expect(complete(cache, 'a', [...numbers(50), 1, 2, 3])).toBe(50)
    expect(complete(cache, 'b', [...numbers(40), ...numbers(20, 7000), 1])).toBe(60)
    expect(cache.stats).toMatchObject({ queriedTokens: 160 + 140 + 53 + 61, hitTokens: 40 + 50 + 60 })
    checkRows(cache, 'a', [...numbers(50), 1, 2, 3], '', 53)
  })

  it('never finds the whole prompt, nor prefixes too short to matter, nor another salt', () => {
    const cache = cacheOf(10)
    complete(cache, 'a', numbers(100), 'one')
    expect(cache.open('same', numbers(100), 'one')).toBe(99)
    expect(cache.open('short', [...numbers(minimumReuse - 1), 999], 'one')).toBe(0)
    expect(cache.open('enough', [...numbers(minimumReuse), 999], 'one')).toBe(minimumReuse)
    expect(cache.open('other', numbers(100), 'two')).toBe(0)
  })

  it('sees what a live sequence has generated since it was opened, and not what it has yet to run', () => {
    const cache = cacheOf(10)
    const ids = numbers(30)
    complete(cache, 'a', ids)
    ids.push(77, 78)
    run(cache, 'a', ids, '', 30, 31)
    expect(cache.open('b', [...ids, 79], '')).toBe(31)
  })

  it('takes from a step that failed half way only what every layer has', () => {
    const cache = cacheOf(10)
    const ids = numbers(60)
    breakOff(cache, 'a', ids, '')
    expect(cache.open('b', [...ids, 1], '')).toBe(20)
    cache.release('a', { retain: true, ids })
    expect(cache.open('c', [...ids, 2], '')).toBe(20)
  })

  it('hands a finished sequence over where the new one goes on from its end', () => {
    const cache = cacheOf(3)
    complete(cache, 'turn 1', numbers(250))
    cache.release('turn 1', { retain: true, ids: [...numbers(250), 9] })
    expect(cache.stats).toMatchObject({ freeBlocks: 3, retainedBlocks: 2 })
    expect(complete(cache, 'turn 2', numbers(300))).toBe(250)
    expect(cache.stats).toMatchObject({ freeBlocks: 0, retainedBlocks: 0 })
    checkRows(cache, 'turn 2', numbers(300), '', 300)
  })

  it('hands it over, too, where a copy beside it would not fit', () => {
    const cache = cacheOf(3)
    complete(cache, 'a', numbers(250))
    cache.release('a', { retain: true, ids: numbers(250) })
    const other = [...numbers(200), ...numbers(100, 4000)]
    expect(complete(cache, 'b', other)).toBe(200)
    checkRows(cache, 'b', other, '', 300)
  })

  it('does without where it may neither copy nor take over', () => {
    const cache = cacheOf(4)
    complete(cache, 'long', numbers(3 * blockRows))
    cache.release('long', { retain: true, ids: numbers(3 * blockRows) })
    expect(complete(cache, 'short', [...numbers(150), 9999])).toBe(0)
  })

  it('gives up the sequence whose rows were used longest ago first', () => {
    const cache = cacheOf(3)
    for (const first of [1000, 2000, 3000]) {
      complete(cache, `${first}`, numbers(100, first))
      cache.release(`${first}`, { retain: true, ids: numbers(100, first) })
    }
    cache.reserve('x', cache.open('x', numbers(10), '') + 10)
    cache.drop('x')
    expect(cache.open('y', [...numbers(50, 2000), 1], '')).toBe(50)
    cache.drop('y')
    expect(cache.open('z', numbers(200), '')).toBe(0)
    expect(cache.reserve('z', 200)).toBe(true)
    expect(cache.open('first', [...numbers(50, 1000), 1], '')).toBe(0)
    expect(cache.open('third', [...numbers(50, 3000), 1], '')).toBe(0)
    expect(cache.open('second', [...numbers(50, 2000), 1], '')).toBe(50)
  })

  it('keeps no more finished sequences than it may, the latest of them', () => {
    const cache = cacheOf(10, 2)
    for (const [i, id] of ['a', 'b', 'c'].entries()) {
      complete(cache, id, numbers(50, 1000 * i))
      cache.release(id, { retain: true, ids: numbers(50, 1000 * i) })
    }
    expect(cache.stats.retainedBlocks).toBe(2)
    expect(cache.open('again a', [...numbers(50), 1], '')).toBe(0)
    expect(cache.open('again c', [...numbers(50, 2000), 1], '')).toBe(50)
  })

  it('keeps one of two finished sequences of which one begins the other', () => {
    const cache = cacheOf(10)
    const open = (id: string, length: number) => {
      cache.open(id, numbers(length), 'same')
      run(cache, id, numbers(length), 'same', 0, length)
    }
    open('a', 60)
    open('b', 200)
    open('c', 100)
    cache.release('a', { retain: true, ids: numbers(60) })
    cache.release('b', { retain: true, ids: numbers(200) })
    expect(cache.stats.retainedBlocks).toBe(2)
    cache.release('c', { retain: true, ids: numbers(100) })
    expect(cache.stats.retainedBlocks).toBe(2)
  })
})
