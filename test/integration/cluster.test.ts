import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { startCluster } from '../support/cluster.ts'
import { complete } from '../support/complete.ts'
import { describeGolden, golden } from '../support/goldens.ts'
import { seeded } from '../support/random.ts'
import { startGateway, startWorker } from '../support/service.ts'

/** The promise of the whole: gateway and worker processes give transformers' ids, and the same bits however many they are. */
const families = [
  'deepseek',
  'deepseek_v2',
  'deepseek_v2_yarn',
  'deepseek_v3',
  'deepseek_v3_yarn',
  'mixtral',
  'qwen2_moe',
  'qwen3_moe',
  'olmoe',
]

type Answer = Awaited<ReturnType<typeof complete>>

const cache = mkdtempSync(join(tmpdir(), 'expertmesh-cluster-'))
afterAll(() => rmSync(cache, { recursive: true }))

for (const name of families) {
  describeGolden(name, () => {
    it('gives the ids of transformers and the same bits with 0, 1 and 3 workers', async () => {
      const { dir, cases } = golden(name)
      const digests: string[][] = []
      for (const workers of [0, 1, 3]) {
        const { url, stop } = await startCluster({ model: dir, workers, precision: 'fp32', args: ['--cache', cache] })
        onTestFinished(() => void stop())
        const answers = await Promise.all(
          cases.map(({ input_ids, greedy }) => complete(url, input_ids, { max_tokens: greedy.length })),
        )
        expect(await stop()).toBe(0)
        expect(answers.map(({ ids }) => ids)).toEqual(cases.map(({ greedy }) => greedy))
        digests.push(answers.map(({ digest }) => digest))
      }
      expect(digests[1]).toEqual(digests[0])
      expect(digests[2]).toEqual(digests[0])
    })
  })
}

const promptOf = (seed: number, length: number): number[] => {
  const next = seeded(seed)
  return Array.from({ length }, () => next(256))
}

/** One prompt greedily and drawn, by itself and then beside eight others. */
const bitsOf = async (url: string): Promise<Answer[]> => {
  const prompt = promptOf(1, 60)
  const drawn = { max_tokens: 24, temperature: 1, top_p: 0.9, seed: 11 }
  const alone = [await complete(url, prompt, { max_tokens: 24 }), await complete(url, prompt, drawn)]
  const others = Array.from({ length: 8 }, (_, i) => complete(url, promptOf(i + 2, 9 * i + 1), { ...drawn, seed: i }))
  const beside = [complete(url, prompt, { max_tokens: 24 }), complete(url, prompt, drawn)]
  expect(await Promise.all(beside)).toEqual(alone)
  await Promise.all(others)
  return alone
}

describe.each(['fp32', 'int8'] as const)('in %s', (precision) => {
  let expected: Answer[]
  const model = golden('deepseek').dir
  beforeAll(async () => {
    const { url, stop } = await startCluster({ model, workers: 0, precision, args: ['--cache', cache] })
    expected = await bitsOf(url)
    await stop()
  })

  it.each([1, 2, 3, 5])('%i workers give the bits of none', async (workers) => {
    const { url, stop } = await startCluster({ model, workers, precision, args: ['--cache', cache] })
    onTestFinished(() => void stop())
    expect(await bitsOf(url)).toEqual(expected)
    expect(await stop()).toBe(0)
  })

  it('another placement gives the same bits', async () => {
    const start = async (memory: string) => {
      const worker = await startWorker(['--models', model, '--cache', cache, '--memory-mib', memory])
      onTestFinished(() => void worker.stop())
      return worker
    }
    const workers = [await start('1'), await start('5')]
    const addresses = workers.flatMap(({ address }) => ['--worker', address])
    const gateway = await startGateway(['--model', model, '--precision', precision, '--cache', cache, ...addresses])
    onTestFinished(() => void gateway.stop())
    expect(await bitsOf(gateway.address)).toEqual(expected)
    /** How many experts of each worker have been used. */
    const used = async (): Promise<number[]> => {
      const metrics = await (await fetch(`${gateway.address}/metrics`)).text()
      return workers.map(({ address }) => metrics.split(`worker="${address}"`).length - 1)
    }
    await expect.poll(async () => Math.min(...(await used()))).toBeGreaterThan(0)
    const [few, many] = await used()
    expect(many).toBeGreaterThan(3 * few)
    expect(await gateway.stop()).toBe(0)
    for (const worker of workers) expect(await worker.stop()).toBe(0)
  })
})
