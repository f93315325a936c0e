import { expect, it } from 'vitest'
import { computeEnv } from '../../../services/cli/config.ts'

it('asks the C library for huge pages and passes the rest of the environment on', () => {
  expect(computeEnv({ LANG: 'C' })).toEqual({ LANG: 'C', GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1' })
})

it('leaves alone what somebody has told the C library', () => {
  const env = { GLIBC_TUNABLES: 'glibc.malloc.arena_max=1' }
  expect(computeEnv(env)).toEqual(env)
})
