import type { Logger } from 'pino'
import { isAddress } from '../../../shared/address.ts'
import { closeRedis, openRedis } from '../../../shared/redis.ts'
import { listWorkers, REGISTER_INTERVAL_MS } from '../../../shared/registry.ts'
import type { Source } from './roster.ts'

/** Workers registered in a Redis, read as often as they write. While it is away, those known stay named. */
export const registeredWorkers = (redis: string, log: Logger): Source => {
  let away = false
  const onError = (error: unknown): void => {
    if (!away) log.warn(`the registry of workers cannot be read: ${(error as Error).message}`)
    away = true
  }
  const client = openRedis(redis, 'prompt', onError)
  let timer: NodeJS.Timeout | undefined
  return {
    open(onAddresses) {
      const read = async (): Promise<void> => {
        if (client.status !== 'ready') return
        try {
          onAddresses((await listWorkers(client)).filter(isAddress))
          away = false
        } catch (error) {
          onError(error)
        }
      }
      client.on('ready', read)
      timer = setInterval(read, REGISTER_INTERVAL_MS)
    },
    tell: () => {},
    close() {
      clearInterval(timer)
      client.removeAllListeners('ready')
      closeRedis(client)
    },
  }
}
