import { expect, it } from 'vitest'
import type { ModelConfig } from '../../../shared/model/config.ts'
import { type Costs, forecast } from '../../bench/forecast.ts'

const config = {
  hidden: 8,
  layers: [{ ffn: 'dense' }, { ffn: 'sparse' }, { ffn: 'sparse' }],
  moe: { experts: 16, topK: 4 },
} as unknown as ModelConfig
const costs: Costs = { rows: 1, gatewayMs: 10, besideMs: 0, assignmentMs: 1, messageMs: 0, byteMs: 0 }
/** Experts without a row are given a sliver by the split, hence one digit. */
const at = (more: Partial<Costs>, workers: number, cores: number | null = null, threads = 1): number =>
  forecast(config, 'int8', { ...costs, ...more }, { workers, threads, cores })

it('adds the experts of each layer to what the gateway does', () => {
  expect(at({}, 1)).toBeCloseTo(10 + 2 * 4, 1)
  expect(at({}, 1, null, 2)).toBeCloseTo(10 + 2 * 2, 1)
  expect(at({ rows: 100 }, 1)).toBeCloseTo(10 + 2 * 400, 1)
})

it('waits for the slowest worker: few rows are never spread evenly, many almost are', () => {
  const few = at({}, 4) - 10
  expect(few).toBeGreaterThan(2 * 1.5)
  expect(few).toBeLessThan(2 * 2.5)
  const many = at({ rows: 1000 }, 4) - 10
  expect(many).toBeGreaterThan(2 * 1000)
  expect(many).toBeLessThan(2 * 1000 * 1.1)
})

it('finds no time on shared cores that they do not have', () => {
  expect(at({ rows: 1000 }, 4, 2)).toBeCloseTo(10 + (2 * 4000) / 2, 1)
  expect(at({ rows: 1000, besideMs: 1000 }, 4, 2)).toBeCloseTo(10 + (2 * 4000 + 1000) / 2, 1)
})

it('hides what the gateway does beside the experts, and no more than that', () => {
  expect(at({ besideMs: 5 }, 1)).toBeCloseTo(10 + 8, 1)
  expect(at({ besideMs: 50 }, 1)).toBeCloseTo(10 + 50, 1)
})

it('counts a frame for each worker and layer, and every byte', () => {
  expect(at({ messageMs: 3 }, 1)).toBeCloseTo(10 + 8 + 2 * 3, 1)
  const bytes = 2 * (8 + 4 + 4 * 8 + 4 * 4 * 8)
  expect(at({ byteMs: 1 }, 1)).toBeCloseTo(10 + 8 + bytes, 1)
})
