import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { expertsOf } from '../../services/gateway/placement/locate.ts'
import { packageRoot } from '../../shared/root.ts'
import { demo } from '../support/cluster.ts'
import { complete } from '../support/complete.ts'
import { golden } from '../support/goldens.ts'
import { holdingsOf } from '../support/holdings.ts'
import { describeRedis, startRedis } from '../support/redis.ts'
import { type ServiceProcess, startGateway, startWorker } from '../support/service.ts'

/** Workers come, go, hang and return while a gateway runs. The demo model has 96 experts; a MiB holds about 40 of them. */
const EXPERTS = 96
const folder = mkdtempSync(join(tmpdir(), 'expertmesh-fleet-'))
const cache = ['--cache', join(folder, 'cache')]
const slow = { timeout: 60_000, interval: 50 }

const running: ServiceProcess[] = []
afterEach(async () => {
  // The gateway first, as whoever runs a cluster would: workers wait for it.
  for (const { process } of running) process.kill('SIGCONT')
  for (const service of running.splice(0).reverse()) await service.stop()
})
afterAll(() => rmSync(folder, { recursive: true }))

const kept = async (starting: Promise<ServiceProcess>): Promise<ServiceProcess> => {
  const service = await starting
  running.push(service)
  return service
}
const worker = (name: string, flags: string[] = []): Promise<ServiceProcess> =>
  kept(startWorker(['--listen', `unix:${join(folder, name)}`, '--threads', '1', ...cache, ...flags]))
const gateway = (workers: readonly ServiceProcess[], flags: string[] = []): Promise<ServiceProcess> => {
  const named = workers.flatMap(({ address }) => ['--worker', address])
  return kept(
    startGateway(['--model', demo, '--threads', '1', '--grpc-listen', '127.0.0.1:0', ...cache, ...named, ...flags]),
  )
}

/** How many experts a worker holds, of all models. */
const heldBy = async (worker: { address: string }): Promise<number> =>
  [...(await holdingsOf(worker)).models.values()].flatMap(expertsOf).length
const readiness = async ({ address }: ServiceProcess): Promise<{ status: number; missing: unknown[] }> => {
  const response = await fetch(`${address}/readyz`)
  return { status: response.status, missing: ((await response.json()) as { missing: unknown[] }).missing }
}
const ready = { status: 200, missing: [] }
/** State by address. */
const statesOf = async ({ address }: ServiceProcess): Promise<Record<string, string>> => {
  const text = await (await fetch(`${address}/metrics`)).text()
  return Object.fromEntries(
    [...text.matchAll(/^expertmesh_workers\{worker="([^"]+)",state="([a-z]+)".* 1$/gm)].map(([, at, state]) => [
      at,
      state,
    ]),
  )
}
const kill = async ({ process }: ServiceProcess): Promise<void> => {
  const exit = once(process, 'exit')
  process.kill('SIGKILL')
  await exit
}

describe('a worker that is killed', () => {
  it('is taken out, its experts are loaded on the others, and it is used again when it returns', async () => {
    const [first, second] = await Promise.all([worker('a'), worker('b')])
    const at = await gateway([first, second])
    expect([await heldBy(first), await heldBy(second)]).toEqual([EXPERTS / 2, EXPERTS / 2])
    await kill(first)
    await expect.poll(() => heldBy(second), slow).toBe(EXPERTS)
    await expect.poll(() => readiness(at), slow).toEqual(ready)
    expect(await statesOf(at)).toEqual({ [first.address]: 'gone', [second.address]: 'live' })

    const again = await worker('a')
    await expect.poll(() => statesOf(at), slow).toEqual({ [first.address]: 'live', [second.address]: 'live' })
    // It too computes, though nothing was missing.
    await expect.poll(() => heldBy(again), slow).toBeGreaterThan(EXPERTS / 4)
  })

  it('costs no readiness where there are replicas', async () => {
    const all = await Promise.all([worker('a'), worker('b'), worker('c')])
    const at = await gateway(all, ['--replicas', '2'])
    expect((await Promise.all(all.map(heldBy))).reduce((sum, count) => sum + count)).toBe(2 * EXPERTS)
    await kill(all[0])
    while ((await statesOf(at))[all[0].address] === 'live') expect(await readiness(at)).toEqual(ready)
    expect(await readiness(at)).toEqual(ready)
    await expect.poll(async () => (await heldBy(all[1])) + (await heldBy(all[2])), slow).toBe(2 * EXPERTS)
  })
})

describe('a worker that hangs', () => {
  it('is taken out, and what it holds is used again when it goes on', async () => {
    const [first, second] = await Promise.all([worker('a'), worker('b')])
    const at = await gateway([first, second])
    first.process.kill('SIGSTOP')
    await expect.poll(async () => (await statesOf(at))[first.address], slow).toBe('gone')
    await expect.poll(() => heldBy(second), slow).toBe(EXPERTS)
    await expect.poll(() => readiness(at), slow).toEqual(ready)
    first.process.kill('SIGCONT')
    await expect.poll(async () => (await statesOf(at))[first.address], slow).toBe('live')
    expect(await heldBy(first)).toBe(EXPERTS / 2)
  })
})

describe('a gateway with --join', () => {
  it('listens at once and is ready when workers that register hold every expert', async () => {
    const at = await gateway([], ['--join'])
    const before = await readiness(at)
    expect([before.status, before.missing.length]).toEqual([503, EXPERTS])
    const first = await worker('a', ['--gateway', at.grpc])
    await expect.poll(() => readiness(at), slow).toEqual(ready)
    expect(await statesOf(at)).toEqual({ [first.address]: 'live' })
    const ask = () => complete(at.address, [3, 1, 4, 1, 5], { max_tokens: 8, temperature: 0 })
    const answer = await ask()

    const everywhere = await kept(
      startWorker(['--listen', '0.0.0.0:0', '--insecure', '--threads', '1', '--gateway', at.grpc, ...cache]),
    )
    const seen = everywhere.address.replace('0.0.0.0', '127.0.0.1')
    await expect.poll(() => statesOf(at), slow).toEqual({ [first.address]: 'live', [seen]: 'live' })
    expect(await first.stop()).toBe(0)
    expect(await heldBy({ address: seen })).toBe(EXPERTS)
    expect(await ask()).toEqual(answer)
    // Nobody names it any more.
    await expect.poll(() => statesOf(at), slow).toEqual({ [seen]: 'live' })
    expect(await readiness(at)).toEqual(ready)
  })

  it('is joined again by itself after it was away, and nothing is loaded anew', async () => {
    const at = await gateway([], ['--join'])
    const only = await worker('a', ['--gateway', at.grpc])
    await expect.poll(() => readiness(at), slow).toEqual(ready)
    await at.stop()
    const again = await gateway([], ['--join', '--grpc-listen', at.grpc])
    await expect.poll(() => readiness(again), slow).toEqual(ready)
    expect(again.log()).not.toContain('experts loaded')
    expect(await heldBy(only)).toBe(EXPERTS)
  })

  it('refuses a worker that is of no use, tells it why, and goes on', async () => {
    const at = await gateway([], ['--join'])
    const other = ['--models', golden('mixtral').dir, '--gateway', at.grpc]
    const useless = await kept(startWorker(['--listen', `unix:${join(folder, 'x')}`, ...cache, ...other]))
    await expect.poll(() => statesOf(at), slow).toEqual({ [useless.address]: 'refused' })
    await expect.poll(() => useless.log(), slow).toMatch(/does not use this worker: .* sees no model .*--models/)
    await worker('a', ['--gateway', at.grpc])
    await expect.poll(() => readiness(at), slow).toEqual(ready)
  })
})

describeRedis('a registry in Redis', () => {
  it('names workers to all gateways, and forgets those that are gone', async () => {
    const redis = await startRedis()
    try {
      const shared = ['--redis', redis.address]
      const [first, second] = [await worker('a', shared), await worker('b', shared)]
      const gateways = await Promise.all([1, 2].map(() => gateway([], ['--join', ...shared])))
      const both = { [first.address]: 'live', [second.address]: 'live' }
      for (const at of gateways) {
        await expect.poll(() => readiness(at), slow).toEqual(ready)
        await expect.poll(() => statesOf(at), slow).toEqual(both)
      }
      await redis.kill()
      await redis.restart()
      await kill(first)
      for (const at of gateways) {
        // Its key lives a little longer than it.
        await expect.poll(() => statesOf(at), slow).toEqual({ [second.address]: 'live' })
        await expect.poll(() => readiness(at), slow).toEqual(ready)
      }
      await worker('a', shared)
      for (const at of gateways) await expect.poll(() => statesOf(at), slow).toEqual(both)
      for (const at of gateways) await at.stop()
    } finally {
      await redis.close()
    }
  })
})

describe('a worker that is told to end', () => {
  it('ends with status 0 once others hold its experts, and neither readiness nor answers change', async () => {
    const [first, second] = await Promise.all([worker('a'), worker('b')])
    const at = await gateway([first, second])
    const ask = () => complete(at.address, [3, 1, 4, 1, 5], { max_tokens: 8, temperature: 0 })
    const answer = await ask()
    let ended = false
    const stopped = first.stop().finally(() => {
      ended = true
    })
    while (!ended) {
      expect(await readiness(at)).toEqual(ready)
      expect(await ask()).toEqual(answer)
    }
    expect(await ask()).toEqual(answer)
    expect(await stopped).toBe(0)
    expect(await heldBy(second)).toBe(EXPERTS)
    expect(await readiness(at)).toEqual(ready)
  })

  it('waits no longer than it may where nobody has room', async () => {
    const only = await worker('a', ['--drain-timeout-ms', '300'])
    // The gateway's own worker takes longer than that to start.
    const at = await gateway([only])
    expect(await only.stop()).toBe(0)
    await expect.poll(async () => (await statesOf(at))[only.address], slow).toBe('gone')
  })
})

describe('experts for which no worker has room', () => {
  it('are held by a worker of the gateway’s own, until there is one again', async () => {
    const small = ['--memory-mib', '2']
    const [first, second] = await Promise.all([worker('a', small), worker('b', small)])
    const at = await gateway([first, second])
    await kill(first)
    await expect.poll(async () => (await readiness(at)).status, slow).toBe(503)
    await expect.poll(() => readiness(at), slow).toEqual(ready)
    const own = Object.keys(await statesOf(at)).find((address) => address.includes('expertmesh-spare'))
    expect(own).toBeDefined()
    expect(await heldBy({ address: own ?? '' })).toBe(EXPERTS - (await heldBy(second)))

    await worker('a', small)
    await expect.poll(() => statesOf(at), slow).toEqual({ [first.address]: 'live', [second.address]: 'live' })
    expect(await readiness(at)).toEqual(ready)
  })
})

describe('named workers', () => {
  it('that are too small together end the start with how much is missing', async () => {
    const small = await worker('a', ['--memory-mib', '1'])
    await expect(gateway([small])).rejects.toThrow(
      /the model has 96 experts .* the workers have room for \d+; add \d+ MiB/,
    )
  })

  it('of another model end the start', async () => {
    const other = await kept(startWorker(['--models', join(packageRoot, 'test/data/goldens/mixtral'), ...cache]))
    await expect(gateway([other])).rejects.toThrow(/sees no model .*--models/)
  })
})
