import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { complete } from '../support/complete.ts'
import { describeGolden, type Golden, golden, goldenFolders } from '../support/goldens.ts'
import { type ServiceProcess, startGateway, startWorker } from '../support/service.ts'

/** The promise of the whole: gateway and worker processes give transformers' ids and logits, and the same bits however many they are. */
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
  'marian',
  'bart',
  't5',
  'switch_transformers',
  'nllb_moe',
]
const counts = [0, 1, 3]
/** The most alternatives a request may ask for. */
const logprobs = 20
const tolerance = 2e-4

const cache = mkdtempSync(join(tmpdir(), 'expertmesh-cluster-'))
/** These hold experts of all families in the end, and serve several gateways at once. */
const workers: ServiceProcess[] = []
beforeAll(async () => {
  const models = goldenFolders(families).flatMap((dir) => ['--models', dir])
  const started = Array.from({ length: Math.max(...counts) }, () => startWorker([...models, '--cache', cache]))
  workers.push(...(await Promise.all(started)))
})
afterAll(async () => {
  for (const worker of workers) expect(await worker.stop()).toBe(0)
  rmSync(cache, { recursive: true })
})

/** What a gateway with the first so many workers makes of the cases. */
const answersOf = async ({ dir, cases }: Golden, count: number) => {
  const used = workers.slice(0, count).flatMap(({ address }) => ['--worker', address])
  const gateway = await startGateway(['--model', dir, '--precision', 'fp32', '--cache', cache, ...used])
  try {
    const ask = ({ input_ids, greedy }: Golden['cases'][number]) =>
      complete(gateway.address, input_ids, { max_tokens: greedy.length, logprobs })
    return await Promise.all(cases.map(ask))
  } finally {
    expect(await gateway.stop()).toBe(0)
  }
}

const normaliserOf = (logits: readonly number[]): number => {
  const largest = Math.max(...logits)
  return largest + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - largest), 0))
}

for (const name of families) {
  describeGolden(name, () => {
    it(`gives the ids and logits of transformers, and the same bits, with ${counts.join(', ')} workers`, async () => {
      const { dir, cases } = golden(name)
      const [alone, ...others] = await Promise.all(counts.map((count) => answersOf({ dir, cases }, count)))
      expect(alone.map(({ ids }) => ids)).toEqual(cases.map(({ greedy }) => greedy))
      for (const [i, { first }] of alone.entries()) {
        const { last_logits, first_logits } = cases[i]
        const logits = first_logits ?? last_logits
        const normaliser = normaliserOf(logits)
        const reported = Object.entries(first ?? {})
        expect(reported).toHaveLength(logprobs)
        for (const [token, logprob] of reported) {
          const id = Number(token.replace('token_id:', ''))
          expect(Math.abs(logprob + normaliser - logits[id])).toBeLessThan(tolerance)
        }
      }
      for (const answers of others) expect(answers).toEqual(alone)
    })
  })
}
