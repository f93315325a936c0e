/**
 * Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over tokens: while the queue is busy, tenants get equal shares of
 * what is served, however many requests each of them sends. A request's start tag is its tenant's virtual finish time, or the
 * clock where the tenant has been away; requests run in the order of their start tags, and the clock is the start tag of the
 * request that began last. journal/scripts.ts does the same inside Redis, where all gateways share it.
 */

/** Small goes first: a class is served only while no smaller one waits, and is shared fairly within. */
export const PRIORITY_MAX = 7
/** BullMQ's priorities are below 2^21, 0 is its queue without priorities, and 2^21 / (PRIORITY_MAX + 1) ranks are left to a class. */
const RANKS = 2 ** 18 - 1
/** Tokens of virtual time to a rank. Beyond RANKS of them (16 million tokens, the class never empty) requests run as they come. */
const RANK_TOKENS = 64

/** Shares of one priority class, in tokens of virtual time. */
export type Shares = { clock: number; finish: Map<string, number> }

export const openShares = (): Shares => ({ clock: 0, finish: new Map() })

/** A request of `cost` tokens joins; returns its start tag. `idle`: nothing of the class waits, so that nobody is owed anything. */
export const enter = (shares: Shares, tenant: string, cost: number, idle: boolean): number => {
  if (idle) {
    shares.clock = 0
    shares.finish.clear()
  }
  const start = Math.max(shares.clock, shares.finish.get(tenant) ?? 0)
  shares.finish.set(tenant, start + cost)
  return start
}

/** The request with this start tag begins. */
export const begin = (shares: Shares, start: number): void => {
  shares.clock = Math.max(shares.clock, start)
}

/** Places of the queue that one tenant may take for each that is free. */
export const PLACES_PER_FREE = 8

/**
 * Whether a tenant with `own` requests among the `waiting` may add `more` to a queue of `limit` places: some are kept for who has
 * none, the more the more tenants there are (dynamic thresholds, Choudhury and Hahne, IEEE/ACM Transactions on Networking 1998). One
 * tenant alone gets 8 of 9 places, and all of a queue of up to 9.
 */
export const hasPlace = (limit: number, waiting: number, own: number, more: number): boolean =>
  own + more <= PLACES_PER_FREE * (limit - waiting)

/** Place of a request in the queue: smaller runs first, equal ones as they came. From 1, below 2^21. */
export const rank = (priority: number, start: number): number =>
  1 + priority * (RANKS + 1) + Math.min(RANKS - 1, Math.floor(start / RANK_TOKENS))
