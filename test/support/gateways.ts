import { createHash } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, expect } from 'vitest'
import { openShared, type Store } from '../../services/gateway/store.ts'
import { type Api, type ApiOptions, openApi, openReader, type Reader } from './api.ts'
import { startRedis, type TestRedis } from './redis.ts'

type Options = ApiOptions & { at?: Reader }

/** Gateways of one model on one Redis, all in this process: two engines, a fresh Redis for every test, and everything ended after it. */
export type Gateways = {
  reader(): Reader
  other(): Reader
  redis(): TestRedis
  /** A gateway with room for that many sequences; with none it is a front only, whose requests run at others. */
  open(room: number, options?: Options): Promise<Api>
  openStore(queueLimit?: number): Promise<Store>
  /** Queue and journal without an engine, to play a gateway's part by hand. */
  openByHand(): Promise<Store>
}

export const setUpGateways = (): Gateways => {
  let reader: Reader
  let other: Reader
  let redis: TestRedis
  const closing: (() => Promise<void>)[] = []
  beforeAll(async () => {
    reader = await openReader()
    other = await openReader()
  })
  afterAll(async () => {
    await reader?.close()
    await other?.close()
  })
  beforeEach(async () => {
    redis = await startRedis()
  })
  afterEach(async () => {
    for (const close of closing.splice(0)) await close()
    await redis.close()
  })

  const openStore = async (queueLimit = 100): Promise<Store> => {
    const computing = { modelHash: reader.served.hash, numericClass: reader.served.numericClass }
    return openShared(redis.address, { queueLimit, keepMs: 60_000 }, computing, { warn: () => {} })
  }
  return {
    reader: () => reader,
    other: () => other,
    redis: () => redis,
    openStore,
    async open(room, { at = reader, ...options } = {}) {
      const store = await openStore(options.queueLimit)
      const api = await openApi(at, { served: at.endless, ...options, room, store })
      closing.push(api.close)
      return api
    },
    async openByHand() {
      const store = await openStore()
      closing.push(async () => {
        await store.queue.close()
        await store.journal.close()
        await store.close()
      })
      return store
    },
  }
}

/** logits_sha256 of positions with these digests. */
export const sha256 = (digests: readonly string[]): string =>
  createHash('sha256')
    .update(Buffer.from(digests.join(''), 'hex'))
    .digest('hex')

export const idle = (at: Reader) =>
  expect.poll(() => at.local.counts(), { timeout: 20_000 }).toMatchObject({ running: 0, waiting: 0 })

/** What the events of a stream carry, without the closing one. */
export const chunksOf = (events: readonly { data: string }[]) =>
  events.filter(({ data }) => data !== '[DONE]').map(({ data }) => JSON.parse(data))
