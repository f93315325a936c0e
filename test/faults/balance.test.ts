import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { type Fleet, ready, startFleet, summary } from '../support/fleet.ts'
import { between, metric, metricsOf, type Rows, rowsOf, unevenness } from '../support/load.ts'
import { openQuota, type Quota } from '../support/quota.ts'
import { seeded } from '../support/random.ts'
import { exponentOf, sparseLayers, vocabulary, writeSkewed } from '../support/skew.ts'
import { type Ask, answersOf, type Driven, drive, quantile } from '../support/streams.ts'

const EXPERTS = 16
const S = 1.2
const HIDDEN = 256
const WIDTH = 4096
/** Of unequal workers' experts: what a frame costs besides its kernels must be little even to the slowest, or its share is less. */
const WIDE = 8192
/** In fp32: three matrices. */
const expertMib = (width: number): number => (3 * HIDDEN * width * 4) / 2 ** 20
const SPARE = 1.25
const CLIENTS = 12
const PHASE_MS = Number(process.env.FAULT_SECONDS ?? 20) * 1000
const SETTLE_MS = 4_000
const GAIN_MIN = 1.3
/** Of the share that is due. */
const UNFAIR_MAX = 0.1
const UNEVEN_MAX = 1.1
/** Rebalances until shares must be fair. */
const TURNS_MAX = 2
const ATTEMPTS_MAX = 3
const TOKEN = 'admin'

let folder: string
let fleet: Fleet | null = null
let quotas: (Quota | null)[] = []
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'expertmesh-balance-'))
  for (const width of [WIDTH, WIDE])
    await writeSkewed(join(folder, String(width)), { experts: EXPERTS, topK: 2, hidden: HIDDEN, width, s: S })
  await writeFile(join(folder, 'token'), TOKEN)
})
const stop = async (): Promise<void> => {
  await fleet?.stop()
  fleet = null
  for (const quota of quotas.splice(0)) quota?.close()
}
afterEach(stop)
afterAll(() => rm(folder, { recursive: true }))

const next = seeded(11)
/** Mostly prompt, so that experts get many rows at a time, and more prompts than the prefix cache remembers. */
const asksOf = (tokensMin: number, tokensMax: number): readonly Ask[] =>
  Array.from({ length: 4 * CLIENTS }, (_, i) => ({
    prompt: Array.from({ length: tokensMin + next(tokensMax - tokensMin) }, () => next(vocabulary)),
    max_tokens: 6,
    temperature: i % 2,
    seed: i,
  }))
const asks = asksOf(100, 200)
/**
 * A worker's share is of rows, its time is of weights read as well: the slowest, which has the experts with the fewest rows, reads
 * more of them for each row. With so many rows at a time that counts for little.
 */
const longAsks = asksOf(300, 600)

/** Workers with so much of a core each, and memory for a quarter more experts than there are. */
const start = async (cores: readonly number[], { replicas = 1, width = WIDTH } = {}): Promise<Fleet> => {
  quotas = cores.map(openQuota)
  const slots = Math.floor((replicas * sparseLayers.length * EXPERTS * SPARE) / cores.length)
  const cache = ['--cache', join(folder, 'cache')]
  fleet = await startFleet({
    workers: cores.length,
    replicas,
    model: join(folder, String(width)),
    workerFlags: ['--memory-mib', String(slots * expertMib(width)), ...cache],
    gatewayFlags: [
      ...['--precision', 'fp32', '--rebalance-interval-s', '0', '--redis', 'none', ...cache],
      ...['--max-sequences', String(CLIENTS), '--chunk', '2048', '--max-batch-tokens', '2048'],
      ...['--admin-token-file', join(folder, 'token')],
    ],
    onSpawn: (index, pid) => quotas[index]?.enter(pid),
  })
  return fleet
}

/** Has the load levelled, and resolves when every expert is where it is to be. */
const rebalance = async ({ url }: Fleet): Promise<{ loads: number }> => {
  const before = await metricsOf(url)
  const headers = { authorization: `Bearer ${TOKEN}` }
  expect((await fetch(`${url}/admin/rebalance`, { method: 'POST', headers })).status).toBe(202)
  await vi.waitUntil(async () => metric(await metricsOf(url), 'rebalances') > metric(before, 'rebalances'), {
    timeout: 60_000,
    interval: 50,
  })
  return { loads: metric(await metricsOf(url), 'rebalance_loads') - metric(before, 'rebalance_loads') }
}

type Phase = { driven: Driven; from: Rows; to: Rows }

type Answers = Parameters<typeof drive>[2]
const run = async ({ url }: Fleet, asks: readonly Ask[], expected: Answers, forMs = PHASE_MS) => {
  let from = await rowsOf(url)
  let to = from
  const driven = await drive(url, asks, expected, {
    clients: CLIENTS,
    during: async () => {
      await delay(SETTLE_MS)
      from = await rowsOf(url)
      await delay(forMs)
      to = await rowsOf(url)
    },
  })
  expect(driven.failures).toEqual([])
  return { driven, from, to } satisfies Phase
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
const tell = (name: string, { driven, from, to }: Phase, { addresses }: Fleet, speeds?: readonly number[]): void => {
  const { shares, rowsPerSecond, stepMs } = between(from, to, addresses)
  const load = `max/mean ${unevenness(shares, speeds).toFixed(3)} (${shares.map(percent).join(', ')})`
  console.info(`${name}: ${load}, ${rowsPerSecond.toFixed(0)} rows/s, step ${stepMs.toFixed(0)} ms`)
  console.info(summary(name, driven.gapsMs, driven.completed, driven.failures.length))
  const parts = [...from.phases].map(
    ([part, ms]) => `${part} ${(((to.phases.get(part) ?? 0) - ms) / (to.steps - from.steps)).toFixed(1)}`,
  )
  console.info(`ms per step: ${parts.join(', ')}`)
  if (quotas.every((quota) => quota))
    console.info(`throttled: ${quotas.map((quota) => percent(quota?.throttled() ?? 0))}`)
}

const toldOf = async ({ url }: Fleet): Promise<Record<string, number>> =>
  Object.fromEntries(
    [...(await metricsOf(url)).matchAll(/^expertmesh_balancedness\{of="(\w+)"[^}]*\} (\S+)/gm)].map(([, of, value]) => [
      of,
      Number(value),
    ]),
  )

/** Measures times, and shares that follow from times, until they hold, a few times at most: the machine has stalls of its own. */
const measure = async <T>(take: () => Promise<T>, holds: (found: T) => boolean): Promise<T> => {
  for (let attempt = 1; ; attempt++) {
    const found = await take()
    if (holds(found) || attempt === ATTEMPTS_MAX) return found
    console.info('measured once more, for it was', found)
    await stop()
  }
}

/** Throughput after over before one rebalance, the slowest request meanwhile over what it may take, and max ÷ mean load after it. */
const levelled = async (): Promise<{ gain: number; slowness: number; uneven: number }> => {
  const at = await start([0.2, 0.2, 0.2, 0.2])
  const limited = quotas.every((quota) => quota !== null)
  if (!limited)
    console.info('no CPU quotas can be set here: the load ratio is asserted, throughput is of the simulation')
  const expected = await answersOf(at.url, asks)
  const before = await run(at, asks, expected)
  const { popularity, shares, rowsPerSecond } = between(before.from, before.to, at.addresses)
  const hottest = popularity.slice(0, 4).map(percent).join(', ')
  console.info(`popularity fits s = ${exponentOf(popularity).toFixed(2)}; the first experts get ${hottest}`)
  expect(exponentOf(popularity)).toBeGreaterThan(0.9 * S)
  tell('before', before, at)
  expect(unevenness(shares)).toBeGreaterThan(1.3)

  let [fromMs, toMs] = [0, 0]
  const moving = await drive(at.url, asks, expected, {
    clients: CLIENTS,
    during: async () => {
      await delay(SETTLE_MS)
      fromMs = performance.now()
      const { loads } = await rebalance(at)
      toMs = performance.now()
      console.info(`${loads} loads in ${(toMs - fromMs).toFixed(0)} ms`)
      expect(loads).toBeGreaterThan(0)
    },
  })
  expect(moving.failures).toEqual([])
  const meanwhile = moving.requests.filter(({ beganMs, tookMs }) => beganMs < toMs && beganMs + tookMs > fromMs)
  const usual = before.driven.requests.map(({ tookMs }) => tookMs).sort((a, b) => a - b)
  const stepMs = quantile(before.driven.gapsMs, 0.5)
  const slowest = Math.max(...meanwhile.map(({ tookMs }) => tookMs))
  console.info(
    `${meanwhile.length} requests during the move, slowest ${slowest.toFixed(0)} ms; before p99 ${quantile(usual, 0.99).toFixed(0)} ms, step ${stepMs.toFixed(0)} ms`,
  )

  const after = await run(at, asks, expected)
  tell('after', after, at)
  const level = between(after.from, after.to, at.addresses)
  const told = await toldOf(at)
  const [measured, simulated] = [level.rowsPerSecond / rowsPerSecond, told.after / told.before]
  console.info(`throughput × ${measured.toFixed(2)} measured, × ${simulated.toFixed(2)} simulated`, told)

  const loads: number[] = []
  for (let turn = 0; turn < 3; turn++) {
    await run(at, asks, expected, PHASE_MS / 4)
    loads.push((await rebalance(at)).loads)
  }
  console.info(`further turns load ${loads.join(', ')} experts`)
  expect(loads.at(-1)).toBe(0)
  return {
    gain: limited ? measured : simulated,
    slowness: slowest / (quantile(usual, 0.99) + stepMs),
    uneven: unevenness(level.shares),
  }
}

test('four equal workers under a load of Zipf’s law are level after one rebalance', async () => {
  const { gain, slowness, uneven } = await measure(
    levelled,
    ({ gain, slowness, uneven }) => gain >= GAIN_MIN && slowness <= 1 && uneven <= UNEVEN_MAX,
  )
  expect(gain).toBeGreaterThanOrEqual(GAIN_MIN)
  expect(slowness).toBeLessThanOrEqual(1)
  expect(uneven).toBeLessThanOrEqual(UNEVEN_MAX)
})

/** How far the share of a worker lies from what its speed is due, at most, after the first turn that is fair, or the last. */
const unfairness = async (speeds: readonly number[]): Promise<number> => {
  const at = await start(speeds, { width: WIDE })
  const limited = quotas.every((quota) => quota !== null)
  if (!limited) console.info('no CPU quotas can be set here: the workers are equal, and so are their shares')
  const total = speeds.reduce((sum, speed) => sum + speed)
  const due = speeds.map((speed) => (limited ? speed / total : 1 / speeds.length))
  const expected = await answersOf(at.url, longAsks)
  tell('before', await run(at, longAsks, expected), at, speeds)
  let unfair = Number.POSITIVE_INFINITY
  // What a worker can do shows while all are busy, which they are only once the load is about level.
  for (let turn = 1; turn <= TURNS_MAX && unfair > UNFAIR_MAX; turn++) {
    await drive(at.url, longAsks, expected, {
      clients: CLIENTS,
      during: async () => {
        await delay(SETTLE_MS)
        console.info(await rebalance(at))
      },
    })
    const after = await run(at, longAsks, expected)
    tell(`after turn ${turn}`, after, at, speeds)
    const { shares } = between(after.from, after.to, at.addresses)
    unfair = Math.max(...shares.map((share, i) => Math.abs(share / due[i] - 1)))
    console.info(`a share is ${(unfair * 100).toFixed(1)} % off`)
  }
  return unfair
}

test('unequal workers each get their share', async () => {
  const speeds = [0.15, 0.3, 0.6]
  const unfair = await measure(
    () => unfairness(speeds),
    (found) => found <= UNFAIR_MAX,
  )
  expect(unfair).toBeLessThanOrEqual(UNFAIR_MAX)
})

test('a worker killed in the middle of a move costs no request, and the fleet settles', async () => {
  const at = await start([0.2, 0.2, 0.2, 0.2], { replicas: 2 })
  const expected = await answersOf(at.url, asks)
  const { failures, completed, gapsMs } = await drive(at.url, asks, expected, {
    clients: CLIENTS,
    during: async () => {
      await delay(SETTLE_MS)
      const turn = rebalance(at)
      await vi.waitUntil(async () => metric(await metricsOf(at.url), 'loading_experts') > 0, { interval: 5 })
      await at.kill(1)
      await turn
      await at.start(1)
      await ready(at, 2)
      await rebalance(at)
      await delay(SETTLE_MS)
    },
  })
  console.info(summary('killed in the middle of a move', gapsMs, completed, failures.length))
  expect(failures).toEqual([])
  expect(completed).toBeGreaterThan(0)
  await ready(at, 2)
  expect(metric(await metricsOf(at.url), 'missing_experts')).toBe(0)
})
