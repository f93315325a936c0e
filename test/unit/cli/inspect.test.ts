import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { deal, inspect } from '../../../services/cli/inspect.ts'
import { deal as dealOfGateway } from '../../../services/gateway/placement/repair.ts'
import { openModel } from '../../../shared/model/open.ts'

const demo = join(import.meta.dirname, '..', '..', '..', 'models', 'demo')

describe('inspect', () => {
  test.each([1, 2, 3, 7])('deals as a gateway does to %i workers of equal memory', (workers) => {
    const layers = [1, 2, 5]
    expect(deal(layers, 10, workers)).toEqual(dealOfGateway({ layers, experts: 10 }, Array(workers).fill(1000)))
  })

  test('the demo model’s experts are counted in bytes', async () => {
    const model = await openModel(demo)
    await model.close()
    const { experts, parts, workers, gatewayBytes } = inspect('demo', model.config, 3)
    const perExpert = 3 * 64 * 128
    expect(experts).toEqual({ perLayer: 24, topK: 4, width: 64, total: 96 })
    const routed = parts.find(({ name }) => name === 'routed experts')
    expect(routed?.count).toBe(96)
    expect(routed?.bytes.fp32).toBeGreaterThanOrEqual(96 * perExpert * 4)
    expect(routed?.bytes.int8).toBeLessThan(96 * perExpert * 2)
    for (const precision of ['fp32', 'int8'] as const) {
      const everywhere = workers.reduce((sum, { bytes }) => sum + bytes[precision], gatewayBytes[precision])
      expect(parts.reduce((sum, { bytes }) => sum + bytes[precision], 0)).toBe(everywhere)
    }
  })
})
