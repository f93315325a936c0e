import { expect, it } from 'vitest'
import { compare } from '../../bench/compare.ts'

const steady = { median: 2, min: 2, max: 2 }
const noisy = { median: 2, min: 1.8, max: 2.1 }
const verdict = (committed: typeof steady, now: typeof steady | null) => compare({ a: committed }, { a: now })[0]

it('takes a ratio that is as good as the committed one, or better', () => {
  expect(verdict(steady, steady).ok).toBe(true)
  expect(verdict(steady, { median: 3, min: 3, max: 3 }).ok).toBe(true)
})

it('fails a ratio that is worse where neither run was noisy', () => {
  expect(verdict(steady, { median: 1.99, min: 1.99, max: 1.99 }).ok).toBe(false)
})

it('allows for the noise of both runs, the larger side of each, and for no more', () => {
  expect(verdict(noisy, steady).least).toBeCloseTo(1.8)
  expect(verdict(noisy, { median: 1.7, min: 1.615, max: 1.7 }).least).toBeCloseTo(1.7)
  expect(verdict(noisy, { median: 1.71, min: 1.6245, max: 1.71 }).ok).toBe(true)
  expect(verdict(noisy, { median: 1.69, min: 1.6055, max: 1.69 }).ok).toBe(false)
})

it('fails what was measured once and is not now, and asks nothing of what never was', () => {
  expect(verdict(steady, null).ok).toBe(false)
  expect(compare({ a: steady }, {})[0].ok).toBe(false)
  expect(compare({ a: null }, { a: steady })).toEqual([])
})
