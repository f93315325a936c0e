/** Where workers write their addresses in Redis, for all gateways to find. */
import type { RedisClient } from './redis.ts'

/** Addresses that were ever written; a key of its own, which vanishes by itself, says that one is there. */
const NAMES = 'expertmesh:workers'
const keyOf = (address: string): string => `expertmesh:worker:${address}`

/** A worker writes this often. */
export const REGISTER_INTERVAL_MS = 1_000
/** One that wrote nothing for this long is not there. */
const LIFE_MS = 5_000

export const writeWorker = async (client: RedisClient, address: string): Promise<void> => {
  await client.multi().sadd(NAMES, address).set(keyOf(address), '', 'PX', LIFE_MS).exec()
}

export const eraseWorker = async (client: RedisClient, address: string): Promise<void> => {
  await client.multi().srem(NAMES, address).del(keyOf(address)).exec()
}

/** Those that are there. The names of those that vanished are taken out. */
export const listWorkers = async (client: RedisClient): Promise<string[]> => {
  const names = await client.smembers(NAMES)
  if (names.length === 0) return []
  const values = await client.mget(names.map(keyOf))
  const vanished = names.filter((_, i) => values[i] === null)
  if (vanished.length > 0) await client.srem(NAMES, vanished)
  return names.filter((_, i) => values[i] !== null).sort()
}
