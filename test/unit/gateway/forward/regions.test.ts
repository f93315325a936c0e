import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { Regions } from '../../../../services/gateway/forward/regions.ts'
import { Shm } from '../../../../shared/shm.ts'
import { seeded } from '../../../support/random.ts'

const KIB = 1024
const MIB = 1024 * KIB
const folder = mkdtempSync(join(tmpdir(), 'expertmesh-regions-'))
afterAll(() => rmSync(folder, { recursive: true }))

const open = (name: string): { worker: Shm; regions: Regions } => {
  const worker = Shm.create(join(folder, name))!
  return { worker, regions: Regions.open(join(folder, 'socket'), name)! }
}

test('the name is gone once both ends have the file open, and what one end writes the other reads', () => {
  const { worker, regions } = open('named')
  expect(existsSync(join(folder, 'named'))).toBe(false)
  const rows = new Uint8Array(20 * KIB).fill(3)
  const offset = regions.put(1, rows, 100 * KIB)
  const seen = new Uint8Array(rows.length)
  expect(worker.read(seen, offset)).toBe(true)
  expect(seen).toEqual(rows)
  const answer = new Uint8Array(100 * KIB).fill(4)
  expect(worker.write(answer, offset)).toBe(true)
  const got = new Uint8Array(answer.length)
  expect(regions.read(1, got)).toBe(true)
  expect(got).toEqual(answer)
  for (const nowhere of [offset + answer.length, 2 ** 53 - 1, 2 ** 60]) expect(worker.read(seen, nowhere)).toBe(false)
  regions.close()
  worker.close()
})

test('no two calls share a byte, whatever comes and goes', () => {
  const { worker, regions } = open('random')
  const next = seeded(1)
  const lent = new Map<number, { offset: number; bytes: number }>()
  for (let call = 1; call < 2_000; call++) {
    const bytes = 16 * KIB + next(200 * KIB)
    const offset = regions.put(call, new Uint8Array(16), bytes)
    expect(offset).toBeGreaterThan(0)
    for (const other of lent.values())
      expect(offset >= other.offset + other.bytes || other.offset >= offset + bytes).toBe(true)
    lent.set(call, { offset, bytes })
    while (lent.size > next(12)) {
      const [first] = lent.keys()
      regions.free(first)
      lent.delete(first)
    }
  }
  regions.close()
  worker.close()
})

test('small rows, and those for which there is no room, stay in their message', () => {
  const { worker, regions } = open('full')
  expect(regions.put(1, new Uint8Array(100), 10 * KIB)).toBe(0)
  let calls = 1
  while (regions.put(++calls, new Uint8Array(0), 32 * MIB) > 0) expect(calls).toBeLessThan(20)
  expect(calls).toBeGreaterThan(4)
  regions.free(2)
  expect(regions.put(99, new Uint8Array(0), 32 * MIB)).toBeGreaterThan(0)
  expect(regions.read(1, new Uint8Array(8))).toBe(false)
  regions.close()
  worker.close()
})

test('a file elsewhere, or none, is not shared', () => {
  expect(Regions.open(join(folder, 'socket'), 'nothing')).toBe(null)
  expect(Regions.open(join(folder, 'socket'), '../../etc/hosts')).toBe(null)
})
