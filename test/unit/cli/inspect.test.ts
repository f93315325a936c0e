import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { deal, inspect, render } from '../../../services/cli/inspect.ts'
import { deal as dealOfGateway } from '../../../services/gateway/placement/repair.ts'
import { PRECISIONS } from '../../../shared/model/config.ts'
import { openModel, readModelConfig } from '../../../shared/model/open.ts'
import { goldenFolders } from '../../support/goldens.ts'

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
    for (const precision of PRECISIONS) {
      const everywhere = workers.reduce((sum, { bytes }) => sum + bytes[precision], gatewayBytes[precision])
      expect(parts.reduce((sum, { bytes }) => sum + bytes[precision], 0)).toBe(everywhere)
    }
  })

  const said: Record<string, string[]> = {
    deepseek: [
      'deepseek, 4 layers (3 with experts), hidden 64',
      '16 experts of width 32 in each of 3 layers, 6 run for each token, beside shared experts of width 64',
      'dense FFN of width 160 in 1 layer',
      'norm pre rms, positions rope, attention mha 4 heads, ffn gated silu, router softmax top-6',
      'with 2 equal workers:',
    ],
    marian: [
      'marian, 4 layers (2 of the encoder, 2 of the decoder), hidden 64',
      'dense FFN of width 128 in 4 layers',
      'norm post layer, positions sinusoidal, attention mha 4 heads, ffn relu\n',
      'no experts: the gateway holds everything, and workers nothing',
    ],
    switch_transformers: [
      '8 layers (4 of the encoder, 4 of the decoder, 4 with experts)',
      '8 experts of width 96 in each of 4 layers, 1 run for each token\n',
      'dense FFN of width 96 in 4 layers',
      'norm pre rms, positions relative, attention mha 4 heads, ffn relu, router softmax top-1 with capacity',
    ],
  }
  test.each(Object.keys(said))('%s is said to be made of what it is made of', async (golden) => {
    for (const dir of goldenFolders([golden])) {
      const { name, config } = await readModelConfig(dir)
      const inspection = inspect(name, config, 2)
      expect(inspection.dense.layers + inspection.sparseLayers).toBe(inspection.layers)
      for (const words of said[golden]) expect(render(inspection)).toContain(words)
      expect(render(inspection)).not.toMatch(/\b0 (experts|of the|with)/)
    }
  })
})
