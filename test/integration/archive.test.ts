import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type Archive, type Item, itemBytes } from '../../services/gateway/accept/batches/archive.ts'
import { contentOf, findFile, partsOf, saveFile } from '../../services/gateway/accept/batches/files.ts'
import { openMemoryArchive } from '../../services/gateway/accept/batches/memory.ts'
import { openRedisArchive } from '../../services/gateway/accept/batches/redis.ts'
import { seeded } from '../support/random.ts'
import { describeRedis, startRedis, type TestRedis } from '../support/redis.ts'

const item = (id: string, more: Partial<Item> = {}): Item => ({
  id,
  kind: 'file',
  tenant: 'me',
  state: 'kept',
  body: `body of ${id}`,
  expiresAtMs: null,
  ...more,
})

/** What whoever keeps files and batches promises. */
const promises = (open: (maxBytes?: number) => Archive): void => {
  it('shows an item to its tenant, newest first, unless it is hidden', async () => {
    const archive = open()
    for (const id of ['b', 'a', 'c']) expect(await archive.add(item(id), true)).toBe(true)
    await archive.add(item('h', { state: 'hidden' }), true)
    await archive.add(item('x', { tenant: 'other' }), true)
    await archive.add(item('y', { kind: 'batch' }), true)
    expect(await archive.list('file', 'me')).toEqual(['body of c', 'body of a', 'body of b'])
    expect(await archive.find('a')).toEqual({ ...item('a'), version: 1 })
    expect(await archive.find('none')).toBe(null)
    expect(await archive.change('h', { body: 'whole', state: 'kept' })).toBe('changed')
    expect((await archive.list('file', 'me')).sort()).toEqual(['body of a', 'body of b', 'body of c', 'whole'])
    await archive.remove('a')
    expect([await archive.find('a'), (await archive.list('file', 'me')).length]).toEqual([null, 3])
  })

  it('leaves an item as it is that is added again', async () => {
    const archive = open()
    await archive.add(item('a', { state: 'open', kind: 'batch' }), true)
    await archive.change('a', { body: 'new' })
    expect(await archive.add(item('a'), true)).toBe(true)
    expect(await archive.find('a')).toMatchObject({ body: 'new', state: 'open', version: 2 })
  })

  it('changes an item at one version only, and for its owner only', async () => {
    const archive = open()
    await archive.add(item('a', { kind: 'batch', state: 'open' }), true)
    expect(await archive.open()).toEqual(['a'])
    expect(await archive.change('a', { version: 2, body: 'no' })).toBe('other')
    expect(await archive.change('a', { owner: 'x', body: 'no' })).toBe('lost')
    expect(await archive.lease('a', 'x', 60_000)).toBe(true)
    expect(await archive.lease('a', 'y', 60_000)).toBe(false)
    expect(await archive.change('a', { owner: 'y', body: 'no', parts: [['p', 'no']] })).toBe('lost')
    expect(await archive.change('a', { owner: 'x', version: 1, body: 'yes', parts: [['p', '1']] })).toBe('changed')
    expect(await archive.renew('a', 'x', 60_000)).toBe(2)
    expect(await archive.renew('a', 'y', 60_000)).toBe(null)
    await archive.release('a', 'y')
    expect(await archive.lease('a', 'y', 60_000)).toBe(false)
    await archive.release('a', 'x')
    expect(await archive.renew('a', 'x', 60_000)).toBe(null)
    expect(await archive.lease('a', 'y', 1)).toBe(true)
    await expect.poll(() => archive.lease('a', 'z', 60_000)).toBe(true)
    expect(await archive.change('a', { state: 'kept', clear: true })).toBe('changed')
    expect([await archive.open(), await archive.names('a')]).toEqual([[], []])
    expect(await archive.change('none', { body: 'no' })).toBe('lost')
    expect(await archive.lease('none', 'x', 60_000)).toBe(false)
  })

  it('writes a part once', async () => {
    const archive = open()
    await archive.add(item('a'), true)
    await archive.change('a', {
      parts: [
        ['1', 'é'],
        ['2', ''],
      ],
    })
    await archive.change('a', {
      parts: [
        ['1', 'other'],
        ['3', 'c'],
      ],
    })
    expect(await archive.parts('a', ['3', 'none', '2', '1'])).toEqual(['c', null, '', 'é'])
    expect((await archive.names('a')).sort()).toEqual(['1', '2', '3'])
    expect(await archive.parts('a', [])).toEqual([])
    for (let round = 0; round < 2; round++) expect(await archive.change('a', { clear: true })).toBe('changed')
    expect(await archive.names('a')).toEqual([])
  })

  it('takes nothing new beyond its bound, and has room again once something goes', async () => {
    const archive = open(2 * itemBytes + 100)
    await archive.add(item('a', { expiresAtMs: 1_000 }), true)
    await archive.add(item('b'), true)
    expect(await archive.add(item('c'), true)).toBe(false)
    expect(await archive.change('a', { bounded: true, parts: [['12', 'x'.repeat(98)]] })).toBe('changed')
    expect(await archive.change('b', { bounded: true, parts: [['', 'y']] })).toBe('full')
    // The results of what was accepted are never refused.
    expect(await archive.change('b', { parts: [['1', 'y']] })).toBe('changed')
    await archive.change('b', { clear: true })
    await archive.sweep(999)
    expect(await archive.add(item('c'), true)).toBe(false)
    await archive.sweep(1_000)
    expect(await archive.find('a')).toBe(null)
    expect(await archive.add(item('c'), true)).toBe(true)
    expect(await archive.change('c', { bounded: true, parts: [['1', 'x'.repeat(99)]] })).toBe('changed')
    expect(await archive.change('c', { bounded: true, parts: [['2', '']] })).toBe('full')
  })

  it('keeps files of any length and letters, whole or not at all', async () => {
    const archive = open(4 * 2 ** 20)
    const text = '😀é'.repeat(200_000)
    const file = { id: 'f', filename: 'x', purpose: 'batch', tenant: 'me' } as const
    const record = await saveFile(archive, file, [text], true)
    expect(record).toMatchObject({ id: 'f', object: 'file', bytes: Buffer.byteLength(text), filename: 'x' })
    expect(await findFile(archive, 'f', 'me')).toEqual(record)
    expect(await findFile(archive, 'f', 'other')).toBe(null)
    let read = ''
    for await (const part of contentOf(archive, record)) read += part
    expect(read === text).toBe(true)
    // Once more, as who takes over from a writer does.
    expect(await saveFile(archive, file, [text], false)).toMatchObject({ bytes: record.bytes })
    await expect(saveFile(archive, { ...file, id: 'g' }, ['x'.repeat(4 * 2 ** 20)], true)).rejects.toThrow('delete')
    expect([await archive.find('g'), (await archive.list('file', 'me')).length]).toEqual([null, 1])
    await archive.remove('f')
    await expect(contentOf(archive, record).next()).rejects.toThrow('removed')
  })
}

describe('the archive of one process', () => promises((maxBytes) => openMemoryArchive(maxBytes)))

describeRedis('the archive in Redis', () => {
  let redis: TestRedis
  beforeEach(async () => {
    redis = await startRedis()
  })
  afterEach(() => redis.close())
  promises((maxBytes) => openRedisArchive(redis.client, 'test:', maxBytes))

  it('leaves nothing behind of what was removed', async () => {
    const archive = openRedisArchive(redis.client, 'test:')
    await archive.add(item('a', { kind: 'batch', state: 'open', expiresAtMs: 5 }), true)
    await archive.lease('a', 'x', 60_000)
    await archive.change('a', { parts: [['p', 'text']] })
    await archive.remove('a')
    expect((await redis.client.keys('*')).sort()).toEqual(['test:bytes', 'test:places'])
    expect(await redis.client.get('test:bytes')).toBe('0')
  })
})

describe('the parts of a text', () => {
  it('are the same however it comes, in random cases', async () => {
    const next = seeded(4)
    const collect = async (texts: readonly string[]): Promise<string[]> => {
      const parts = []
      for await (const part of partsOf(texts)) parts.push(part)
      return parts
    }
    for (let round = 0; round < 10; round++) {
      const text = Array.from({ length: 300 }, () => ['a', '😀', 'é'][next(3)].repeat(next(4_000))).join('')
      const pieces: string[] = []
      for (let at = 0; at < text.length; ) {
        const length = 1 + next(500_000)
        pieces.push(text.slice(at, at + length))
        at += length
      }
      const parts = await collect([text])
      expect(parts.join('') === text).toBe(true)
      expect(parts.every((part) => Buffer.from(part).toString() === part)).toBe(true)
      expect(await collect(pieces)).toEqual(parts)
    }
  })
})
