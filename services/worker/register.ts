import type { Logger } from 'pino'
import { closeRedis, openRedis } from '../../shared/redis.ts'
import { eraseWorker, REGISTER_INTERVAL_MS, writeWorker } from '../../shared/registry.ts'

/** Keeps this worker's address in a Redis, until the returned function takes it out. While Redis is away it tries on. */
export const registerWorker = (redis: string, address: string, log: Logger): (() => Promise<void>) => {
  let away = false
  const onError = (error: unknown): void => {
    if (!away) log.warn(`this worker cannot register in Redis: ${(error as Error).message}`)
    away = true
  }
  const client = openRedis(redis, 'prompt', onError)
  const write = (): void => {
    if (client.status !== 'ready') return
    writeWorker(client, address).then(() => {
      away = false
    }, onError)
  }
  client.on('ready', write)
  const timer = setInterval(write, REGISTER_INTERVAL_MS)
  return async () => {
    clearInterval(timer)
    client.off('ready', write)
    if (client.status === 'ready') await eraseWorker(client, address).catch(onError)
    closeRedis(client)
  }
}
