import { mkdtempSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { holdingsOf } from '../support/holdings.ts'
import { metric, metricsOf } from '../support/load.ts'
import { seeded } from '../support/random.ts'
import { describeRedis, startRedis } from '../support/redis.ts'
import { type ServiceProcess, startGateway, startWorker } from '../support/service.ts'
import { sparseLayers, vocabulary, writeSkewed } from '../support/skew.ts'
import { type Ask, answersOf, drive } from '../support/streams.ts'

/** Experts of 1.5 MiB, the first much more wanted than the others; workers start with a third of them each. */
const EXPERTS = 12
const SLOTS = 10
const folder = mkdtempSync(join(tmpdir(), 'expertmesh-rebalance-'))
const model = join(folder, 'skewed')
const cache = ['--cache', join(folder, 'cache')]
const slow = { timeout: 60_000, interval: 50 }
const TOKEN = 'admin'

const running: ServiceProcess[] = []
beforeAll(async () => {
  await writeSkewed(model, { experts: EXPERTS, topK: 2, hidden: 256, width: 512, s: 1.2 })
  await writeFile(join(folder, 'token'), TOKEN)
})
afterEach(async () => {
  for (const service of running.splice(0).reverse()) await service.stop()
})
afterAll(() => rmSync(folder, { recursive: true }))

const kept = async (starting: Promise<ServiceProcess>): Promise<ServiceProcess> => {
  const service = await starting
  running.push(service)
  return service
}
const startWorkers = (): Promise<ServiceProcess[]> =>
  Promise.all(
    ['a', 'b', 'c'].map((name) => {
      const flags = ['--listen', `unix:${join(folder, name)}`, '--models', model, '--threads', '1', ...cache]
      return kept(startWorker([...flags, '--memory-mib', String(SLOTS * 1.5)]))
    }),
  )
const openGateway = (workers: readonly ServiceProcess[], flags: readonly string[] = []): Promise<ServiceProcess> => {
  const named = workers.flatMap(({ address }) => ['--worker', address])
  const admin = ['--admin-token-file', join(folder, 'token'), '--rebalance-interval-s', '0']
  const own = ['--model', model, '--precision', 'fp32', '--threads', '1', '--max-sequences', '4']
  return kept(startGateway([...own, ...admin, ...cache, ...named, ...flags]))
}

const next = seeded(5)
const asks: readonly Ask[] = Array.from({ length: 12 }, (_, i) => ({
  prompt: Array.from({ length: 80 + next(80) }, () => next(vocabulary)),
  max_tokens: 4,
  temperature: i % 2,
  seed: i,
}))

const ask = async ({ address }: ServiceProcess, token: string): Promise<number> =>
  (await fetch(`${address}/admin/rebalance`, { method: 'POST', headers: { authorization: `Bearer ${token}` } })).status
const told = async ({ address }: ServiceProcess, name: string): Promise<number> =>
  metric(await metricsOf(address), name)
const turn = async (at: ServiceProcess): Promise<void> => {
  const before = await told(at, 'rebalances')
  expect(await ask(at, TOKEN)).toBe(202)
  await expect.poll(() => told(at, 'rebalances'), slow).toBe(before + 1)
}

/** [layer][expert] → workers, by index. */
const holdersOf = async (workers: readonly ServiceProcess[]): Promise<number[][][]> => {
  const all = await Promise.all(workers.map(holdingsOf))
  const holders: number[][][] = []
  for (const [worker, { models }] of all.entries())
    for (const { layer, experts } of [...models.values()].flat())
      for (const expert of experts) {
        holders[layer] ??= Array.from({ length: EXPERTS }, () => [])
        holders[layer][expert].push(worker)
      }
  return holders
}

describe('a load that prefers some experts', () => {
  it('is levelled while streams run, whose bits stay the same', async () => {
    const workers = await startWorkers()
    const at = await openGateway(workers, ['--redis', 'none'])
    expect(await ask(at, 'wrong')).toBe(401)
    const expected = await answersOf(at.address, asks)
    const version = await told(at, 'topology_version')
    expect((await holdersOf(workers))[sparseLayers[0]][0]).toHaveLength(1)
    // A turn that comes before enough was counted moves nothing.
    const during = async (): Promise<void> => {
      for (let turns = 0; turns < 5 && (await told(at, 'topology_version')) === version; turns++) await turn(at)
    }
    const { failures, completed } = await drive(at.address, asks, expected, { clients: 4, during })
    expect(failures).toEqual([])
    expect(completed).toBeGreaterThan(0)
    expect(await told(at, 'topology_version')).toBeGreaterThan(version)
    const holders = await holdersOf(workers)
    for (const layer of sparseLayers) {
      expect(holders[layer][0].length).toBeGreaterThan(1)
      for (const each of holders[layer]) expect(each.length).toBeGreaterThan(0)
    }
    const text = await metricsOf(at.address)
    const balancedness = (of: string): number =>
      Number(new RegExp(`^expertmesh_balancedness\\{of="${of}".*\\} (\\S+)`, 'm').exec(text)?.[1])
    expect(balancedness('after')).toBeGreaterThan(balancedness('before'))
    expect(balancedness('measured')).toBeLessThan(1)
  })
})

describe('rules', () => {
  it('are carried out without a load, and hold when it is levelled', async () => {
    const workers = await startWorkers()
    const [layer, other] = sparseLayers
    const rules = [
      { pin: workers[2].address, layers: layer, experts: '0-3' },
      { forbid: workers[0].address, layers: other },
    ]
    const file = join(folder, 'rules.json')
    await writeFile(file, JSON.stringify({ rules }))
    const at = await openGateway(workers, ['--redis', 'none', '--placement', file])
    const obeyed = async (): Promise<void> => {
      const holders = await holdersOf(workers)
      for (const expert of [0, 1, 2, 3]) expect(holders[layer][expert]).toContain(2)
      for (const each of holders[other]) expect(each).not.toContain(0)
    }
    await turn(at)
    await obeyed()
    const expected = await answersOf(at.address, asks)
    const { failures } = await drive(at.address, asks, expected, { clients: 4, during: () => turn(at) })
    expect(failures).toEqual([])
    await obeyed()
    expect(await told(at, 'missing_experts')).toBe(0)
  })
})

describeRedis('gateways that share a Redis', () => {
  it('take every turn once, whichever of them was asked', async () => {
    const redis = await startRedis()
    try {
      const workers = await startWorkers()
      const gateways = await Promise.all([1, 2].map(() => openGateway(workers, ['--redis', redis.address])))
      const turns = async (): Promise<number> =>
        (await told(gateways[0], 'rebalances')) + (await told(gateways[1], 'rebalances'))
      for (let asked = 1; asked <= 6; asked++) {
        expect(await ask(gateways[asked % 2], TOKEN)).toBe(202)
        await expect.poll(turns, slow).toBe(asked)
      }
      const expected = await answersOf(gateways[0].address, asks)
      const { failures } = await drive(gateways[1].address, asks, expected, {
        clients: 4,
        during: async () => {
          expect(await ask(gateways[0], TOKEN)).toBe(202)
          await expect.poll(turns, slow).toBe(7)
        },
      })
      expect(failures).toEqual([])
      for (const at of gateways) await expect.poll(() => told(at, 'missing_experts'), slow).toBe(0)
      for (const at of gateways.reverse()) await at.stop()
    } finally {
      await redis.close()
    }
  })
})
