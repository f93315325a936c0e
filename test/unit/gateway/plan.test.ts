import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bytes, render } from '../../../services/gateway/placement/page.ts'
import { type PlanConfig, parseWorkers, plan } from '../../../services/gateway/plan.ts'
import { v3Sizes } from '../../support/configs.ts'

const GIB = 2 ** 30
let modelDir = ''
beforeAll(async () => {
  modelDir = await mkdtemp(join(tmpdir(), 'plan-'))
  await writeFile(join(modelDir, 'config.json'), JSON.stringify(v3Sizes))
})
afterAll(() => rm(modelDir, { recursive: true }))

const optionsFor = (workers: string, more: Partial<PlanConfig> = {}): PlanConfig => ({
  modelDir,
  workers: parseWorkers(workers),
  precision: 'int8',
  zipf: 1.2,
  seed: 1,
  replicas: 1,
  batch: 64,
  json: false,
  ...more,
})

describe('workers on the command line', () => {
  test('are kinds with a count, memory and speed, and numbered by name', () => {
    expect(parseWorkers('2x24GiB,gpu=1x80GiB@2.5,1.5MiB')).toEqual([
      { name: 'worker-0', memoryBytes: 24 * GIB, speed: 1 },
      { name: 'worker-1', memoryBytes: 24 * GIB, speed: 1 },
      { name: 'gpu-0', memoryBytes: 80 * GIB, speed: 2.5 },
      { name: 'worker-2', memoryBytes: 1.5 * 2 ** 20, speed: 1 },
    ])
  })

  test.each(['', '24', '24GB', '0x1GiB', '1x1GiB@0', '1x1GiB,', 'x1GiB', '-1x1GiB', '1x1GiB@-1'])(
    '%j is refused',
    (text) => expect(() => parseWorkers(text)).toThrow('COUNTxMEMORY@SPEED'),
  )

  test('are 4,096 at most', () => {
    expect(parseWorkers('4000x1GiB,96x1GiB')).toHaveLength(4096)
    for (const text of ['4097x1GiB', '4096x1GiB,1GiB', '99999999999x1GiB'])
      expect(() => parseWorkers(text)).toThrow('At most 4096')
  })
})

describe('a plan', () => {
  test('of 4,096 workers is complete, from config.json alone', async () => {
    const planned = await plan(optionsFor('3000x160MiB,gpu=1096x256MiB@2'))
    expect(planned.model).toMatchObject({ layers: 58, experts: 256, topK: 8 })
    const held = new Set<string>()
    for (const { holds, memoryBytes } of planned.workers) {
      const count = holds.reduce((sum, { experts }) => sum + experts.length, 0)
      expect(count * planned.expertBytes).toBeLessThanOrEqual(memoryBytes)
      for (const { layer, experts } of holds) for (const expert of experts) held.add(`${layer}/${expert}`)
    }
    expect(held.size).toBe(58 * 256)
    expect(planned.balanced.imbalance).toBeLessThan(planned.dealt.imbalance)
    expect(planned.balanced.stepTime).toBeLessThan(planned.dealt.stepTime)
  })

  test('is a page that fits a terminal, with a line per worker or per kind', async () => {
    const few = render(await plan(optionsFor('6x96GiB,gpu=2x160GiB@3', { batch: 32 })))
    const many = render(await plan(optionsFor('30x24GiB,gpu=2x160GiB@3')))
    for (const page of [few, many]) {
      for (const line of page.split('\n')) expect(line.length).toBeLessThanOrEqual(110)
      expect(page).toContain('14,848 of 42.0 MiB (int8)')
      expect(page).toContain('alone in its step')
    }
    expect(few).toMatch(/^gpu-1, 160\.0 GiB /m)
    expect(few).toContain('in steps of 32 rows')
    expect(many).toMatch(/^30 × worker, 24\.0 GiB /m)
  })

  test('compares with EPLB where workers are equal, and is at least as even', async () => {
    const { eplb, balanced } = await plan(optionsFor('8x96GiB', { zipf: 0.8 }))
    expect(balanced.stepTime).toBeLessThanOrEqual((eplb?.stepTime ?? 0) * 1.01)
    expect((await plan(optionsFor('7x96GiB,96GiB@2'))).eplb).toBeNull()
  })

  test('follows a recorded trace and a placement file', async () => {
    const [trace, placement] = [join(modelDir, 'trace.csv'), join(modelDir, 'rules.json')]
    await writeFile(trace, '3,7,1000\n3,8,10\n')
    await writeFile(
      placement,
      '{"rules": [{"pin": "gpu-0", "layers": 60}, {"replicate": 2, "layers": 3, "experts": 9}]}',
    )
    const planned = await plan(optionsFor('8x96GiB,gpu=2x96GiB', { trace, placement }))
    expect(planned.load).toContain('1,010 rows')
    const holders = (layer: number, expert: number) =>
      planned.workers.filter(({ holds }) => holds.some((held) => held.layer === layer && held.experts.includes(expert)))
    expect(holders(3, 7).length).toBeGreaterThan(4)
    expect(holders(3, 9)).toHaveLength(2)
    for (const expert of [0, 100, 255]) expect(holders(60, expert).map(({ name }) => name)).toContain('gpu-0')
  })

  test.each([
    ['workers that are too small', () => optionsFor('8x24GiB'), 'add'],
    ['a folder without a model', () => optionsFor('8x96GiB', { modelDir: tmpdir() }), 'has no config.json'],
    ['no such trace', () => optionsFor('8x96GiB', { trace: join(modelDir, 'none') }), 'name a readable file'],
    ['no such rules', () => optionsFor('8x96GiB', { placement: join(modelDir, 'none') }), 'name a readable file'],
  ])('says what is wrong with %s', async (_, options, sentence) => {
    await expect(plan(options())).rejects.toThrow(sentence)
  })
})

test('bytes are shown in the unit that suits them', () => {
  expect([0, 1, 1023, 1536, 2 ** 40].map(bytes)).toEqual(['0 B', '1 B', '1023 B', '1.5 KiB', '1.0 TiB'])
})
