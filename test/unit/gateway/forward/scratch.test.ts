import { expect, test } from 'vitest'
import { Scratch } from '../../../../services/gateway/forward/scratch.ts'

const LARGE = 100_000

test('memory that was given back serves whatever fits next', () => {
  const scratch = new Scratch()
  const first = scratch.take(LARGE)
  scratch.give(first)
  const second = scratch.floats(LARGE / 4 - 7)
  expect(second.buffer).toBe(first.buffer)
  expect(second).toHaveLength(LARGE / 4 - 7)
  expect(scratch.take(LARGE).buffer).not.toBe(first.buffer)
})

test('a view gives back what it is a view of, once', () => {
  const scratch = new Scratch()
  const lent = scratch.floats(LARGE)
  scratch.give(lent.subarray(8))
  scratch.give(lent)
  const buffers = new Set([scratch.floats(LARGE).buffer, scratch.floats(LARGE).buffer])
  expect(buffers.size).toBe(2)
  expect(buffers).toContain(lent.buffer)
})

test('memory that was never lent is not taken', () => {
  const scratch = new Scratch()
  const own = new Float32Array(2 ** 15)
  scratch.give(own)
  expect(scratch.floats(2 ** 15).buffer).not.toBe(own.buffer)
})

test('no more is kept than the limit', () => {
  const scratch = new Scratch()
  const lent = Array.from({ length: 5 }, () => scratch.take(2 ** 26))
  for (const each of lent) scratch.give(each)
  const again = new Set(Array.from({ length: 5 }, () => scratch.take(2 ** 26).buffer))
  expect(lent.filter(({ buffer }) => again.has(buffer))).toHaveLength(2)
})
