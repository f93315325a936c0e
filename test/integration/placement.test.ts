import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { expertsOf } from '../../services/gateway/placement/locate.ts'
import type { Holdings } from '../../services/gateway/placement/workers.ts'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { complete } from '../support/complete.ts'
import { golden } from '../support/goldens.ts'
import { holdingsOf } from '../support/holdings.ts'
import { seeded } from '../support/random.ts'
import { type ServiceProcess, startGateway, startWorker } from '../support/service.ts'

/** Bits do not depend on how many workers there are, which of them hold what, and who else is being served. */
const names = ['deepseek', 'mixtral']
/** Of workers with room for all; two are the unequal ones. */
const counts = [1, 3, 5]
/** Room for some of the experts of these models, and for many: experts are dealt in proportion. */
const unequalMib = [1, 6]

const cache = mkdtempSync(join(tmpdir(), 'expertmesh-placement-'))
const equal: ServiceProcess[] = []
const unequal: ServiceProcess[] = []
beforeAll(async () => {
  const flags = [...names.flatMap((name) => ['--models', golden(name).dir]), '--cache', cache]
  const many = Array.from({ length: Math.max(...counts) }, () => startWorker(flags))
  const few = unequalMib.map((mib) => startWorker([...flags, '--memory-mib', String(mib)]))
  equal.push(...(await Promise.all(many)))
  unequal.push(...(await Promise.all(few)))
})
afterAll(async () => {
  for (const worker of [...equal, ...unequal]) expect(await worker.stop()).toBe(0)
  rmSync(cache, { recursive: true })
})

const promptOf = (seed: number, length: number): number[] => {
  const next = seeded(seed)
  return Array.from({ length }, () => next(256))
}
const greedy = { max_tokens: 16 }
const drawn = { max_tokens: 16, temperature: 1, top_p: 0.9, seed: 11 }

type Answer = Awaited<ReturnType<typeof complete>>

/** One prompt greedily and drawn: each by itself, then both beside eight others. */
const bitsOf = async (url: string): Promise<Answer[]> => {
  const prompt = promptOf(1, 60)
  const alone = [await complete(url, prompt, greedy), await complete(url, prompt, drawn)]
  const others = Array.from({ length: 8 }, (_, i) => complete(url, promptOf(i + 2, 9 * i + 1), { ...drawn, seed: i }))
  const beside = [complete(url, prompt, greedy), complete(url, prompt, drawn)]
  expect(await Promise.all(beside)).toEqual(alone)
  await Promise.all(others)
  return alone
}

const hashOf = async (name: string, precision: Precision): Promise<string> => {
  const model = await openModel(golden(name).dir)
  return modelHash(model, precision, cache).finally(() => model.close())
}

/** Who ran experts, read from /metrics. */
const runnersOf = async (url: string): Promise<string[]> => {
  const metrics = await (await fetch(`${url}/metrics`)).text()
  const line = /^expertmesh_expert_rows_total\{[^}]*worker="([^"]+)"/gm
  return [...new Set([...metrics.matchAll(line)].map(([, worker]) => worker))].sort()
}

/** holdings: by worker, before any of them was asked for an answer: one that is late then has others hold what it holds. */
type Run = { bits: Answer[]; holdings: Holdings[] }

const run = async (name: string, precision: Precision, workers: readonly ServiceProcess[]): Promise<Run> => {
  const addresses = workers.map(({ address }) => address)
  const used = addresses.flatMap((address) => ['--worker', address])
  // Several of them run at once.
  const shared = ['--cache', cache, '--threads', '1']
  const gateway = await startGateway(['--model', golden(name).dir, '--precision', precision, ...shared, ...used])
  try {
    const holdings = await Promise.all(workers.map(holdingsOf))
    const bits = await bitsOf(gateway.address)
    // The engine reports now and then.
    const expected = workers.length > 0 ? addresses : ['gateway']
    await expect.poll(() => runnersOf(gateway.address), { timeout: 5_000 }).toEqual([...expected].sort())
    return { bits, holdings }
  } finally {
    expect(await gateway.stop()).toBe(0)
  }
}

describe.each(names)('%s', (name) => {
  it.each(PRECISIONS)('in %s: any number of workers and any placement give the bits of none', async (precision) => {
    const fleets = [[], ...counts.map((count) => equal.slice(0, count)), unequal]
    const runs = await Promise.all(fleets.map((workers) => run(name, precision, workers)))
    const [expected, ...others] = runs.map(({ bits }) => bits)
    expect(new Set(expected.map(({ digest }) => digest)).size).toBe(2)
    for (const bits of others) expect(bits).toEqual(expected)
    const hash = await hashOf(name, precision)
    const { holdings } = runs[runs.length - 1]
    const [few, many] = holdings.map(({ models }) => expertsOf(models.get(hash) ?? []).length)
    expect(few).toBeGreaterThan(0)
    expect(many).toBeGreaterThan(2 * few)
  })
})
