import assert from 'node:assert/strict'
import { describe, expect, it } from 'vitest'
import { KvCache, minimumReuse } from '../../../../services/gateway/forward/cache.ts'
import { Code, MeshError } from '../../../../shared/errors.ts'
import { seeded } from '../../../support/random.ts'

const layers = 2
const arrays = [
  { heads: 2, dim: 3 },
  { heads: 1, dim: 5 },
]
const blockRows = 128
const blockBytes = layers * blockRows * (2 * 3 + 5) * 4
const spareBytes = blockRows * 2 * 3 * 4
const retainedMax = 1000

/** Just enough memory for so many blocks. */
const cacheOf = (blocks: number, kept = retainedMax): KvCache => {
  const memoryBytes = blocks * blockBytes + (blocks - 1) * spareBytes
  return new KvCache({ layers, arrays, blockRows, memoryBytes, retainedMax: kept })
}

/** What a token's row would be: a number that depends on all ids up to it, as attention's rows do. */
const state = (ids: readonly number[], salt: string): number[] => {
  let sum = salt.length
  return ids.map((id) => {
    sum = (sum * 31 + id + 1) % 65521
    return sum
  })
}

const value = (stateOfToken: number, layer: number, array: number, head: number, i: number): number =>
  stateOfToken + layer / 2 + array / 4 + head / 8 + i / 128

/** Rows [begin, end) of a sequence, per array [S, heads·dim]. */
const rowsFor = (ids: readonly number[], salt: string, layer: number, begin: number, end: number): Float32Array[] => {
  const states = state(ids, salt)
  return arrays.map(({ heads, dim }, array) =>
    Float32Array.from({ length: (end - begin) * heads * dim }, (_, at) => {
      const head = Math.floor(at / dim) % heads
      return value(states[begin + Math.floor(at / (heads * dim))], layer, array, head, at % dim)
    }),
  )
}

const run = (cache: KvCache, id: string, ids: readonly number[], salt: string, begin: number, end: number): void => {
  assert(cache.reserve(id, end))
  for (let layer = 0; layer < layers; layer++) cache.append(id, layer, rowsFor(ids, salt, layer, begin, end), begin)
}

/** Opens a sequence and runs all its tokens; returns how many were cached. */
const complete = (cache: KvCache, id: string, ids: readonly number[], salt = ''): number => {
  const cached = cache.open(id, ids, salt)
  run(cache, id, ids, salt, cached, ids.length)
  return cached
}

/** Every row is the one its ids ask for, every capacity a multiple of 128, and nothing beyond the rows is NaN or infinite. */
function checkRows(cache: KvCache, id: string, ids: readonly number[], salt: string, rows: number): void {
  const states = state(ids, salt)
  for (let layer = 0; layer < layers; layer++) {
    for (const [array, { heads, dim }] of arrays.entries()) {
      const { data, capacity } = cache.view(id, layer, array)
      assert(capacity % blockRows === 0 && capacity >= rows && capacity === cache.held(id) * blockRows)
      assert.equal(data.length, heads * capacity * dim)
      for (const [at, found] of data.entries()) {
        const row = Math.floor(at / dim) % capacity
        const head = Math.floor(at / (capacity * dim))
        if (row < rows) assert.equal(found, Math.fround(value(states[row], layer, array, head, at % dim)))
        else assert(Number.isFinite(found))
      }
    }
  }
}

const numbers = (length: number, first = 0): number[] => Array.from({ length }, (_, i) => first + i)

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
    cache.open('a', ids, '')
    run(cache, 'a', ids, '', 0, 20)
    cache.reserve('a', 60)
    cache.append('a', 0, rowsFor(ids, '', 0, 20, 60), 20)
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
    } else if (picked) forward(...picked)
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
