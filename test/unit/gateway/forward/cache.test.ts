import assert from 'node:assert/strict'
import { describe, expect, it } from 'vitest'
import { KvCache, minimumReuse } from '../../../../services/gateway/forward/cache.ts'
import { Code, MeshError } from '../../../../shared/errors.ts'
import {
  arrays,
  blockBytes,
  blockRows,
  breakOff,
  cacheOf,
  checkRows,
  complete,
  layers,
  numbers,
  retainedMax,
  rowsFor,
  run,
  spareBytes,
} from '../../../support/cache.ts'
import { seeded } from '../../../support/random.ts'

describe('memory', () => {
  it('counts as many blocks as fit beside one array growing by copy', () => {
    for (const blocks of [1, 2, 7]) {
      const exact = blocks * blockBytes + (blocks - 1) * spareBytes
      const total = (memoryBytes: number) =>
        new KvCache({ layers, arrays, blockRows, memoryBytes, retainedMax }).totalBlocks
      expect(total(exact)).toBe(blocks)
      expect(total(exact + blockBytes + spareBytes - 1)).toBe(blocks)
      expect(total(exact + blockBytes + spareBytes)).toBe(blocks + 1)
    }
  })

  it('refuses memory for less than one block, saying how much is needed', () => {
    const open = () => new KvCache({ layers, arrays, blockRows, memoryBytes: blockBytes - 1, retainedMax })
    expect(open).toThrow(MeshError)
    expect(open).toThrow(`at least ${blockBytes} bytes`)
  })

  it('lets one sequence grow into all of it, block by block', () => {
    const cache = cacheOf(6)
    const ids = numbers(6 * blockRows)
    cache.open('a', ids, '')
    for (let begin = 0; begin < ids.length; begin += 64) {
      run(cache, 'a', ids, '', begin, begin + 64)
      expect(cache.stats.bytes).toBeLessThanOrEqual(6 * blockBytes + 5 * spareBytes)
    }
    checkRows(cache, 'a', ids, '', ids.length)
    expect(cache.freeBlocks).toBe(0)
  })

  it('changes nothing when a reservation does not fit', () => {
    const cache = cacheOf(4)
    complete(cache, 'old', numbers(100, 500))
    cache.release('old', { retain: true, ids: numbers(100, 500) })
    complete(cache, 'a', numbers(200))
    complete(cache, 'b', numbers(50, 1000))
    const before = cache.stats
    expect(cache.reserve('b', 3 * blockRows)).toBe(false)
    expect(cache.stats).toEqual(before)
    checkRows(cache, 'a', numbers(200), '', 200)
    checkRows(cache, 'b', numbers(50, 1000), '', 50)
    expect(cache.reserve('b', 2 * blockRows)).toBe(true)
    expect(cache.freeBlocks).toBe(0)
  })

  it('lets go of everything when it closes', () => {
    const cache = cacheOf(4)
    complete(cache, 'a', numbers(200))
    complete(cache, 'b', numbers(40, 900))
    cache.release('b', { retain: true, ids: numbers(40, 900) })
    cache.close()
    expect(cache.stats).toMatchObject({ bytes: 0, freeBlocks: 4, retainedBlocks: 0 })
  })
})

describe('values that are not finite', () => {
  it('are refused before anything is written, so no later sequence meets them', () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      for (const place of [0, 59, 119]) {
        const cache = cacheOf(1)
        cache.open('a', numbers(30), '')
        run(cache, 'a', numbers(30), '', 0, 10)
        const rows = rowsFor(numbers(30), '', 0, 10, 30)
        rows[0][place] = bad
        cache.reserve('a', 30)
        expect(() => cache.append('a', 0, rows, 10)).toThrow(expect.objectContaining({ code: Code.INTERNAL }))
        checkRows(cache, 'a', numbers(30), '', 10)
        cache.drop('a')
        complete(cache, 'b', numbers(5))
        checkRows(cache, 'b', numbers(5), '', 5)
      }
    }
  })

  it('do not include the largest and smallest numbers', () => {
    const cache = cacheOf(1)
    cache.open('a', [1], '')
    cache.reserve('a', 1)
    const rows = [Float32Array.of(3.4e38, -3.4e38, 1e-45, -1e-45, 0, -0), new Float32Array(5)]
    cache.append('a', 0, rows, 0)
    expect([...cache.view('a', 0, 0).data.subarray(0, 3)]).toEqual([...rows[0].subarray(0, 3)])
  })
})

describe('a fork', () => {
  it('goes on by itself from where its source is, and outlives it', () => {
    const cache = cacheOf(4)
    const ids = numbers(150)
    complete(cache, 'a', ids)
    const [left, right] = [
      [...ids, 1],
      [...ids, 2],
    ]
    expect(cache.fork('b', right, 'a')).toBe(true)
    expect(cache.held('b')).toBe(2)
    run(cache, 'a', left, '', 150, 151)
    run(cache, 'b', right, '', 150, 151)
    checkRows(cache, 'a', left, '', 151)
    cache.drop('a')
    checkRows(cache, 'b', right, '', 151)
  })

  it('has the salt of its source, and only the rows that every layer has', () => {
    const cache = cacheOf(4)
    const ids = numbers(60)
    breakOff(cache, 'a', ids, 'salt')
    expect(cache.fork('b', ids, 'a')).toBe(true)
    run(cache, 'b', ids, 'salt', 20, 60)
    checkRows(cache, 'b', ids, 'salt', 60)
    cache.drop('a')
    expect(cache.open('c', [...ids, 1], 'salt')).toBe(60)
    expect(cache.open('d', [...ids, 1], '')).toBe(0)
  })

  it('takes the blocks of finished sequences, and changes nothing where it does not fit', () => {
    const cache = cacheOf(4)
    complete(cache, 'old', numbers(100, 500))
    cache.release('old', { retain: true, ids: numbers(100, 500) })
    complete(cache, 'a', numbers(200))
    expect(cache.fork('b', numbers(200), 'a')).toBe(true)
    expect(cache.stats).toMatchObject({ freeBlocks: 0, retainedBlocks: 0 })
    const before = cache.stats
    expect(cache.fork('c', numbers(200), 'a')).toBe(false)
    expect(cache.stats).toEqual(before)
    expect(cache.held('c')).toBe(0)
    checkRows(cache, 'a', numbers(200), '', 200)
    checkRows(cache, 'b', numbers(200), '', 200)
  })

  it('of a sequence without rows needs no block', () => {
    const cache = cacheOf(1)
    complete(cache, 'full', numbers(100))
    cache.open('a', [5, 6], '')
    expect(cache.fork('b', [5, 7], 'a')).toBe(true)
    expect(cache.held('b')).toBe(0)
  })
})

type Dumb = { ids: number[]; salt: string; rows: number }

/** Random operations beside a map of plain arrays; `roomy`: nothing is ever given up, so every common prefix must be found. */
function operate(seed: number, blocks: number, roomy: boolean): void {
  const random = seeded(seed)
  const cache = cacheOf(blocks)
  const limitBytes = blocks * blockBytes + (blocks - 1) * spareBytes
  const live = new Map<string, Dumb>()
  const seen: Dumb[] = []
  const pick = (): [string, Dumb] | undefined => [...live][random(live.size)]
  const common = (a: Dumb, ids: readonly number[]): number => {
    const same = ids.findIndex((id, i) => i >= a.rows || id !== a.ids[i])
    return same < 0 ? ids.length : same
  }

  const open = (id: string): void => {
    const base = [...live.values(), ...seen][random(live.size + seen.length)]
    const ids = [
      ...(base?.ids.slice(0, random(400)) ?? []),
      ...Array.from({ length: 1 + random(150) }, () => random(3)),
    ]
    const salt = base && random(5) > 0 ? base.salt : 's'.repeat(random(3))
    const candidates = [...live.values(), ...seen].filter((other) => other.salt === salt)
    const best = Math.min(ids.length - 1, Math.max(0, ...candidates.map((other) => common(other, ids))))
    const cached = cache.open(id, ids, salt)
    assert(cached === 0 || (cached >= minimumReuse && cached <= best))
    if (roomy) assert.equal(cached, best >= minimumReuse ? best : 0)
    assert(cache.held(id) <= cache.blocksFor(ids.length))
    live.set(id, { ids, salt, rows: cached })
  }

  const forward = (id: string, one: Dumb): void => {
    if (one.rows === one.ids.length) one.ids.push(random(3))
    const end = Math.min(one.ids.length, one.rows + 1 + random(200))
    const [held, free] = [cache.held(id), cache.freeBlocks]
    const fits = cache.blocksFor(end) - held <= free
    assert.equal(cache.reserve(id, end), fits)
    if (!fits) {
      assert(cache.held(id) === held && cache.freeBlocks === free)
      return
    }
    run(cache, id, one.ids, one.salt, one.rows, end)
    one.rows = end
  }

  const fork = (id: string, from: string, one: Dumb): void => {
    const fits = cache.blocksFor(one.rows) <= cache.freeBlocks
    const ids = [...one.ids.slice(0, one.rows), random(3)]
    assert.equal(cache.fork(id, ids, from), fits)
    if (fits) live.set(id, { ids, salt: one.salt, rows: one.rows })
  }

  for (let turn = 0; turn < 60; turn++) {
    const action = random(10)
    const picked = pick()
    if (action < 2 && live.size < 6) open(`${seed}.${turn}`)
    else if (picked && (action === 2 || (action === 3 && roomy))) {
      cache.release(picked[0], { retain: true, ids: picked[1].ids })
      live.delete(picked[0])
      seen.push(picked[1])
    } else if (picked && action === 3) {
      cache.drop(picked[0])
      live.delete(picked[0])
    } else if (picked && action === 4 && live.size < 6) fork(`${seed}.${turn}`, ...picked)
    else if (picked) forward(...picked)
    assert.equal(cache.freeBlocks, blocks - [...live.keys()].reduce((sum, id) => sum + cache.held(id), 0))
    assert(cache.freeBlocks >= 0 && cache.stats.retainedBlocks <= cache.freeBlocks)
    assert(cache.stats.bytes <= limitBytes)
    for (const [id, one] of turn % 4 === 0 ? live : [])
      if (cache.held(id) > 0) checkRows(cache, id, one.ids, one.salt, one.rows)
  }
  for (const [id, one] of live) if (cache.held(id) > 0) checkRows(cache, id, one.ids, one.salt, one.rows)
}

describe('beside a map of plain arrays', () => {
  it('holds the same rows after any operations in little memory', () => {
    for (let seed = 0; seed < 60; seed++)
      expect(() => operate(seed, 3 + (seed % 8), false), `seed ${seed}`).not.toThrow()
  })

  it('finds every common prefix where there is room for all', () => {
    for (let seed = 100; seed < 130; seed++) expect(() => operate(seed, 400, true), `seed ${seed}`).not.toThrow()
  })
})
