import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, expect, test, vi } from 'vitest'
import { asks, type Fleet, type FleetOptions, ready, startFleet, summary } from '../support/fleet.ts'
import { openRelay, openWire, type Relay, sound, spoils, type Wire } from '../support/relay.ts'
import { answersOf, type Driven, drive, quantile } from '../support/streams.ts'

const CLIENTS = 16
const UNDISTURBED_MS = 15_000
const DISTURBED_MS = Number(process.env.FAULT_SECONDS ?? 60) * 1000
const SHORT_MS = Math.min(20_000, DISTURBED_MS)
/** Beyond the undisturbed 99th percentile. */
const STALL_MAX_MS = 300

let fleet: Fleet
const closing: (() => Promise<void>)[] = []
afterEach(async () => {
  await fleet?.stop()
  for (const close of closing.splice(0)) await close()
})

const start = async (options: Partial<FleetOptions> = {}): Promise<void> => {
  fleet = await startFleet({ workers: 4, replicas: 2, ...options })
}

/** The same load undisturbed and then disturbed: no request fails, every answer has the same ids and digest. */
const compare = async (name: string, disturb: () => Promise<void>): Promise<{ before: Driven; during: Driven }> => {
  const expected = await answersOf(fleet.url, asks)
  const before = await drive(fleet.url, asks, expected, { clients: CLIENTS, during: () => delay(UNDISTURBED_MS) })
  console.info(summary('undisturbed', before.gapsMs, before.completed, before.failures.length))
  const during = await drive(fleet.url, asks, expected, { clients: CLIENTS, during: disturb })
  console.info(summary(name, during.gapsMs, during.completed, during.failures.length))
  expect(before.failures).toEqual([])
  expect(during.failures).toEqual([])
  expect(during.completed).toBeGreaterThan(0)
  return { before, during }
}

const longest = ({ gapsMs }: Driven): number => gapsMs.at(-1) ?? Number.POSITIVE_INFINITY

/** compare, and no stream stalls for longer than it may. The machine has its own stalls: one that is late, and nothing else, is run again. */
const compareStalls = async (name: string, disturb: () => Promise<void>): Promise<void> => {
  const [stallMs, limitMs] = await stalls(name, disturb)
  if (stallMs <= limitMs) return
  console.info(`${name}: a stall of ${stallMs.toFixed(0)} ms where ${limitMs.toFixed(0)} are allowed; once more`)
  const [againMs, againLimitMs] = await stalls(name, disturb)
  expect(againMs).toBeLessThanOrEqual(againLimitMs)
}
const stalls = async (name: string, disturb: () => Promise<void>): Promise<[number, number]> => {
  const { before, during } = await compare(name, disturb)
  return [longest(during), quantile(before.gapsMs, 0.99) + STALL_MAX_MS]
}
const any = (): number => Math.floor(Math.random() * fleet.workers.length)

/** Does something every five seconds for so long. */
const every5s = async (forMs: number, act: () => Promise<void>): Promise<void> => {
  for (const until = performance.now() + forMs; performance.now() < until; ) {
    const begun = performance.now()
    await act()
    await delay(Math.max(0, begun + 5_000 - performance.now()))
  }
}

test('a random worker of four is killed every five seconds and started again', async () => {
  await start()
  await compareStalls('SIGKILL', () =>
    every5s(DISTURBED_MS, async () => {
      const index = any()
      await fleet.kill(index)
      await fleet.start(index)
      await ready(fleet, 2)
    }),
  )
})

test('a random worker hangs for three seconds, again and again', async () => {
  await start()
  await compareStalls('SIGSTOP for 3 s', () =>
    every5s(DISTURBED_MS, async () => {
      const index = any()
      fleet.signal(index, 'SIGSTOP')
      await delay(3_000)
      fleet.signal(index, 'SIGCONT')
    }),
  )
})

test('one worker is ten times slower', async () => {
  const relays: Relay[] = []
  await start({
    through: async (address) => {
      const relay = await openRelay(address)
      relays.push(relay)
      closing.push(relay.close)
      return relay.address
    },
  })
  await compare('10 × slower', async () => {
    relays[0].spoil = async (response) => {
      await delay((9 * (response.computeUs + response.waitUs)) / 1000)
      return response
    }
    await delay(SHORT_MS)
  })
})

test('a worker is cut off and comes back', async () => {
  const wires: Wire[] = []
  await start({
    tcp: true,
    through: async (address) => {
      const wire = await openWire(address)
      wires.push(wire)
      closing.push(wire.close)
      return wire.address
    },
  })
  await compareStalls('partition of 8 s', async () => {
    await delay(2_000)
    wires[1].cut = true
    await delay(8_000)
    wires[1].cut = false
    await delay(5_000)
  })
})

test('all workers are drained and started again, one after the other', async () => {
  await start()
  await compareStalls('rolling SIGTERM', async () => {
    for (const index of fleet.workers.keys()) {
      await fleet.drain(index)
      await fleet.start(index)
      await ready(fleet, 2)
    }
  })
})

test('four workers become three, two, one, and four again', async () => {
  await start()
  await compare('4 → 3 → 2 → 1 → 4', async () => {
    for (const [index, left] of [
      [3, 2],
      [2, 2],
      [1, 1],
    ]) {
      await fleet.kill(index)
      await ready(fleet, left)
      await delay(2_000)
    }
    for (const index of [1, 2, 3]) await fleet.start(index)
    await ready(fleet, 2)
    await delay(2_000)
  })
})

test('every worker that holds some expert is killed at once, again and again', async () => {
  await start()
  await compare('both replicas killed', async () => {
    for (const until = performance.now() + DISTURBED_MS; performance.now() < until; ) {
      await delay(1_000 * Math.random())
      const pair = [0, 1, 2, 3].toSorted(() => Math.random() - 0.5).slice(0, 2)
      await Promise.all(pair.map(fleet.kill))
      await ready(fleet, 2)
      await Promise.all(pair.map(fleet.start))
      await ready(fleet, 2)
    }
  })
})

test.each(['corrupt', 'short', 'notFinite'] as const)('a worker’s answers are %s', async (kind) => {
  const relay = await breakable()
  await compare(`${kind} answers`, async () => {
    relay.spoil = spoils[kind]
    await delay(SHORT_MS / 2)
    relay.spoil = sound
    await delay(SHORT_MS / 4)
  })
})

test('a worker that computes wrong values is found by audit and asked no more', async () => {
  const relay = await breakable()
  const expected = await answersOf(fleet.url, asks)
  const metrics = async (): Promise<string> => (await fetch(`${fleet.url}/metrics`)).text()
  const disturbed = drive(fleet.url, asks, expected, {
    clients: CLIENTS,
    during: async () => {
      relay.spoil = spoils.wrong
      await vi.waitUntil(async () => /faults_total\{kind="lied".*\} 1$/m.test(await metrics()), { timeout: 60_000 })
    },
  })
  const { completed, failures, gapsMs } = await disturbed
  console.info(summary('wrong values, until the audit finds them', gapsMs, completed, failures.length))
  // The relay still lies, but nobody asks it.
  const after = await drive(fleet.url, asks, expected, { clients: CLIENTS, during: () => delay(SHORT_MS / 2) })
  console.info(summary('afterwards', after.gapsMs, after.completed, after.failures.length))
  expect(after.failures).toEqual([])
})

/** A fleet whose first worker answers through a relay that can spoil what it says. */
const breakable = async (): Promise<Relay> => {
  const relays: Relay[] = []
  await start({
    through: async (address, index) => {
      if (index > 0) return address
      const relay = await openRelay(address)
      relays.push(relay)
      closing.push(relay.close)
      return relay.address
    },
  })
  return relays[0]
}
