import { expect, it } from 'vitest'
import { probe } from '../../../shared/model/probe.ts'

it('a machine has one numeric class, whatever the number of threads, and computes in every precision', async () => {
  const once = await probe({ device: 'cpu', threads: 1 })
  expect(once.numericClass).toMatch(/^[0-9a-f]{64}$/)
  expect(once.refused).toEqual(new Map())
  expect(await probe({ device: 'cpu', threads: 2 })).toEqual(once)
})
