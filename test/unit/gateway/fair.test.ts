import { describe, expect, it } from 'vitest'
import {
  begin,
  enter,
  hasPlace,
  openShares,
  PLACES_PER_FREE,
  PRIORITY_MAX,
  rank,
} from '../../../services/gateway/fair.ts'
import { seeded } from '../../support/random.ts'

type Request = { tenant: string; cost: number; start: number; order: number }

/** One server that takes the smallest start tag, the first of equal ones. */
const openServer = () => {
  const shares = openShares()
  const waiting: Request[] = []
  let order = 0
  return {
    send(tenant: string, cost: number): void {
      const start = enter(shares, tenant, cost, waiting.length === 0)
      waiting.push({ tenant, cost, start, order: order++ })
    },
    take(): Request {
      waiting.sort((a, b) => a.start - b.start || a.order - b.order)
      const [first] = waiting.splice(0, 1)
      begin(shares, first.start)
      return first
    },
    waits: (tenant: string): boolean => waiting.some((request) => request.tenant === tenant),
    size: () => waiting.length,
  }
}

describe('places in the queue', () => {
  it('become alike for all who want more than there are, with one left for who comes last where there are twice as many as that takes', () => {
    const next = seeded(11)
    for (let round = 0; round < 50; round++) {
      const floods = 1 + next(6)
      const limit = 2 * (1 + PLACES_PER_FREE * floods) + next(300)
      const own = new Array(floods).fill(0)
      const waiting = (): number => own.reduce((sum, count) => sum + count, 0)
      // The first to come fills its share; then all send more than is served, and are served in turn.
      while (hasPlace(limit, waiting(), own[0], 1)) own[0]++
      for (let turn = 0; turn < 20 * limit; turn++) {
        if (own[turn % floods] > 0) own[turn % floods]--
        for (let sent = 0; sent < 2 * floods; sent++) {
          const tenant = next(floods)
          if (hasPlace(limit, waiting(), own[tenant], 1)) own[tenant]++
        }
      }
      expect(Math.max(...own) - Math.min(...own)).toBeLessThanOrEqual(PLACES_PER_FREE)
      expect(hasPlace(limit, waiting(), 0, 1)).toBe(true)
    }
  })

  it('are all for one tenant where they are few', () => {
    for (let limit = 1; limit <= PLACES_PER_FREE; limit++)
      for (let waiting = 0; waiting < limit; waiting++) expect(hasPlace(limit, waiting, waiting, 1)).toBe(true)
  })
})

describe('shares of the queue', () => {
  it('let one request of a tenant go before the second of a flood', () => {
    const server = openServer()
    for (let at = 0; at < 100; at++) server.send('flood', 50)
    server.send('quiet', 50)
    expect([server.take(), server.take(), server.take()].map(({ tenant }) => tenant)).toEqual([
      'flood',
      'quiet',
      'flood',
    ])
  })

  it('owe nothing to who was away', () => {
    const server = openServer()
    for (let at = 0; at < 20; at++) server.send('busy', 10)
    for (let at = 0; at < 10; at++) server.take()
    for (let at = 0; at < 10; at++) server.send('new', 10)
    const next = Array.from({ length: 10 }, () => server.take().tenant)
    expect(next.filter((tenant) => tenant === 'new')).toHaveLength(5)
  })

  it('keep the tenant of one among equals in the order they came', () => {
    const server = openServer()
    for (const cost of [5, 500, 1]) server.send('only', cost)
    expect([server.take(), server.take(), server.take()].map(({ cost }) => cost)).toEqual([5, 500, 1])
  })

  // Goyal, Vin and Cheng 1996, theorem 1: of two tenants that both wait throughout, neither gets more ahead than a largest request of each.
  it('differ by no more than the largest requests while both wait', () => {
    const next = seeded(7)
    for (let round = 0; round < 200; round++) {
      const server = openServer()
      const largest = { a: 1 + next(400), b: 1 + next(400), c: 1 + next(400) }
      const tenants = ['a', 'b', 'c'] as const
      for (let at = 0; at < 60; at++) {
        const tenant = tenants[next(3)]
        server.send(tenant, 1 + next(largest[tenant]))
      }
      const served = { a: 0, b: 0, c: 0 }
      while (server.waits('a') && server.waits('b')) {
        const { tenant, cost } = server.take()
        served[tenant as keyof typeof served] += cost
        if (server.waits('a') && server.waits('b'))
          expect(Math.abs(served.a - served.b)).toBeLessThanOrEqual(largest.a + largest.b)
        if (next(3) === 0) {
          const sender = tenants[next(3)]
          server.send(sender, 1 + next(largest[sender]))
        }
        if (server.size() > 500) break
      }
    }
  })
})

describe('ranks', () => {
  it('put every request of a class before all of the next, and stay what BullMQ takes', () => {
    for (let priority = 0; priority <= PRIORITY_MAX; priority++) {
      expect(rank(priority, 0)).toBeGreaterThan(0)
      expect(rank(priority, 0)).toBeLessThan(rank(priority, 6_400))
      expect(rank(priority, 1e12)).toBeLessThan(rank(priority + 1, 0))
    }
    expect(rank(PRIORITY_MAX, 1e12)).toBeLessThan(2 ** 21)
  })
})
