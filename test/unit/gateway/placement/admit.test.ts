import { describe, expect, it } from 'vitest'
import { openAdmission } from '../../../../services/gateway/placement/admit.ts'
import type { Holdings } from '../../../../services/gateway/placement/workers.ts'
import { Code } from '../../../../shared/errors.ts'

const own = { numericClass: 'c'.repeat(64), model: 'm'.repeat(64), precision: 'int8' } as const
const applicant = (address: string, differs: Partial<Holdings> = {}) => ({
  address,
  holdings: {
    models: new Map(),
    visible: [own.model],
    heldBytes: 0,
    idleBytes: 0,
    memoryLimitBytes: 2 ** 30,
    device: 'cpu',
    numericClass: own.numericClass,
    threads: 1,
    rowsPerSecond: 1,
    draining: false,
    loading: new Map(),
    ...differs,
  },
})
const gpu = (address: string, numericClass: string) => applicant(address, { device: 'cuda', numericClass })

describe('who may compute for a gateway', () => {
  it('are workers of its own class that see its model', () => {
    const admit = openAdmission(own)
    admit([applicant('a'), applicant('b')])
    expect(() => admit([applicant('x', { numericClass: 'd'.repeat(64) })])).toThrow(
      expect.objectContaining({
        code: Code.FAILED_PRECONDITION,
        message: expect.stringMatching(/compute other bits than the rest.*: x \(cpu, dddddddddddd\)/),
      }),
    )
    expect(() => admit([applicant('x', { visible: [] })])).toThrow(
      expect.objectContaining({ code: Code.NOT_FOUND, message: expect.stringContaining('worker x sees no model') }),
    )
    admit([applicant('c')])
  })

  it('are GPUs where the first is one, of its class, for as long as the gateway runs', () => {
    const admit = openAdmission({ ...own, precision: 'fp32' })
    admit([gpu('a', 'e'.repeat(64))])
    admit([gpu('b', 'e'.repeat(64))])
    expect(() => admit([gpu('x', 'f'.repeat(64))])).toThrow(/other bits/)
    expect(() => admit([applicant('x')])).toThrow(/other bits/)
  })

  it('are no GPUs for int8, and a refused one sets no class', () => {
    const admit = openAdmission(own)
    expect(() => admit([gpu('x', 'e'.repeat(64))])).toThrow(/int8 runs on CPUs alone: use --precision fp32/)
    admit([applicant('a')])
  })
})
