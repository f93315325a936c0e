import { expect, it } from 'vitest'
import { numericClass } from '../../../shared/model/probe.ts'

it('a machine has one numeric class, whatever the number of threads', async () => {
  const once = await numericClass({ device: 'cpu', threads: 1 })
  expect(once).toMatch(/^[0-9a-f]{64}$/)
  expect(await numericClass({ device: 'cpu', threads: 2 })).toBe(once)
})
