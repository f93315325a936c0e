import { join } from 'node:path'
import type { Logger } from 'pino'
import { closeRedis, openRedis, type Patience, type RedisClient, redisReady } from '../../shared/redis.ts'
import type { Archive } from './accept/batches/archive.ts'
import { openMemoryArchive } from './accept/batches/memory.ts'
import { openRedisArchive } from './accept/batches/redis.ts'
import type { GatewayConfig } from './config.ts'
import { openEmbedded } from './embedded.ts'
import type { Journal } from './journal/journal.ts'
import { MemoryJournal } from './journal/memory.ts'
import { StreamJournal } from './journal/redis.ts'
import { openQueue, openSchedule, type Queue, type Schedule } from './queue.ts'

const START_LIMIT_MS = 30_000
/** The same trouble is told of at most this often. */
const TELL_INTERVAL_MS = 5_000
/** Characters of a hash in names of keys. */
const NAME_CHARACTERS = 16

/** Where accepted requests are kept, and batches: a queue, a journal and an archive that belong together. */
export type Store = {
  queue: Queue
  journal: Journal
  /** One archive by two doors: prompt, for clients, and patient, for what works on batches while Redis comes and goes. */
  archives: Record<Patience, Archive>
  /** Has one of the gateways of this model that share the store do something every so often. */
  schedule(name: string, everyMs: number, run: () => Promise<void>): Promise<Schedule>
  close(): Promise<void>
}

type StoreConfig = Pick<GatewayConfig, 'redis' | 'cacheDir' | 'path' | 'queueLimit' | 'keepMs'>

/** What computes the answers; gateways that share it share a queue. */
export type Computing = { modelHash: string; numericClass: string }

/** Opens the Redis of the configuration, else one of this gateway's own, else memory. @throws MeshError UNAVAILABLE. */
export const openStore = async (config: StoreConfig, computing: Computing, log: Logger): Promise<Store> => {
  if (config.redis === 'none') return openInProcess(config)
  if (config.redis !== null) return openShared(config.redis, config, computing, log)
  const embedded = await openEmbedded(join(config.cacheDir, 'redis'), config.path, untilReady)
  if (embedded === null) {
    log.info('no redis-server or valkey-server on the PATH: requests are queued in this process and end with it')
    return openInProcess(config)
  }
  log.info(`requests are kept by a Redis of this gateway's own, in ${embedded.folder}`)
  const store = await openShared(embedded.address, config, computing, log)
  return {
    ...store,
    async close() {
      await store.close()
      await embedded.close()
    },
  }
}

/** Gone with this process. */
export const openInProcess = ({ queueLimit, keepMs }: Pick<StoreConfig, 'queueLimit' | 'keepMs'>): Store => {
  const archive = openMemoryArchive()
  return {
    queue: openQueue(),
    journal: new MemoryJournal(queueLimit, keepMs),
    archives: { prompt: archive, patient: archive },
    schedule: async (_, everyMs, run) => openSchedule(everyMs, run),
    close: async () => {},
  }
}

const untilReady = async (address: string): Promise<void> => {
  const client = openRedis(address, 'patient', () => {})
  try {
    await redisReady(client, START_LIMIT_MS)
  } finally {
    closeRedis(client)
  }
}

export const openShared = async (
  address: string,
  { queueLimit, keepMs }: Pick<StoreConfig, 'queueLimit' | 'keepMs'>,
  { modelHash, numericClass }: Computing,
  log: Pick<Logger, 'warn'>,
): Promise<Store> => {
  const onError = seldom((error) => log.warn(`Redis: ${error.message}`))
  const clients: RedisClient[] = []
  const open = async (patience: Patience): Promise<RedisClient> => {
    const client = openRedis(address, patience, onError)
    clients.push(client)
    await redisReady(client, START_LIMIT_MS)
    return client
  }
  try {
    // Its modules take a tenth of a second to read: they are, while the workers load experts.
    const { openSharedQueue, openSharedSchedule } = await import('./bull.ts')
    const [prompt, patient, reading] = await Promise.all([open('prompt'), open('patient'), open('patient')])
    const model = modelHash.slice(0, NAME_CHARACTERS)
    const prefix = `expertmesh:${model}:`
    const name = `requests-${model}-${numericClass.replace(/[^\w]+/g, '').slice(0, NAME_CHARACTERS)}`
    return {
      queue: openSharedQueue({ prompt, patient, name, onError }),
      journal: new StreamJournal({ prompt, patient, reading, prefix, queue: name, limit: queueLimit, keepMs, onError }),
      archives: {
        prompt: openRedisArchive(prompt, `${prefix}archive:`),
        patient: openRedisArchive(patient, `${prefix}archive:`),
      },
      schedule: (what, everyMs, run) =>
        openSharedSchedule({ prompt, patient, name: `${what}-${model}`, onError }, everyMs, run),
      close: async () => {
        for (const client of clients) closeRedis(client)
      },
    }
  } catch (error) {
    for (const client of clients) closeRedis(client)
    throw error
  }
}

/** While Redis is away every connection says so, over and over. */
const seldom = (tell: (error: Error) => void): ((error: Error) => void) => {
  let toldAt = Number.NEGATIVE_INFINITY
  return (error) => {
    if (performance.now() - toldAt < TELL_INTERVAL_MS) return
    toldAt = performance.now()
    tell(error)
  }
}
