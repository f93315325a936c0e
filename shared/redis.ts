import { createHash } from 'node:crypto'
import { Redis } from 'ioredis'
import { socketOf } from './address.ts'
import { Code, invalid, MeshError } from './errors.ts'

/** A connection to Redis; every library that talks to Redis is handed one of these. */
export type RedisClient = Redis

/**
 * prompt: a command fails at once while Redis is away, so that a caller can be told. patient: a command waits until Redis is back;
 * the kind that may block.
 */
export type Patience = 'prompt' | 'patient'

const RECONNECT_MS_MIN = 20
const RECONNECT_MS_MAX = 500
const CONNECT_LIMIT_MS = 2_000
/** A Redis that reads its data when it starts is asked this often whether it has done so; ioredis would wait for a second. */
const LOADING_LOOK_MS = 20
/** A prompt command without answer for this long has failed: Redis hangs, or the network does. */
const COMMAND_LIMIT_MS = 5_000

const backoffMs = (attempt: number): number => Math.min(RECONNECT_MS_MAX, RECONNECT_MS_MIN * 2 ** Math.min(attempt, 10))

/**
 * Opens a connection that reconnects by itself for as long as it is open. `onError` hears why it is away; what is thrown by commands
 * goes through `redisError`.
 * @param address redis://HOST:PORT, rediss://HOST:PORT or unix:PATH
 * @throws MeshError INVALID_ARGUMENT for any other address.
 */
export const openRedis = (address: string, patience: Patience, onError: (error: Error) => void): RedisClient => {
  const options = {
    connectTimeout: CONNECT_LIMIT_MS,
    maxLoadingRetryTime: LOADING_LOOK_MS,
    retryStrategy: backoffMs,
    ...(patience === 'prompt'
      ? {
          enableOfflineQueue: false,
          maxRetriesPerRequest: 0,
          autoResendUnfulfilledCommands: false,
          commandTimeout: COMMAND_LIMIT_MS,
        }
      : { maxRetriesPerRequest: null }),
  }
  const client = new Redis(socketOf(address) ?? checked(address), options)
  client.on('error', onError)
  return client
}

const checked = (address: string): string => {
  if (/^rediss?:\/\/\S+$/.test(address)) return address
  throw invalid(`${address} is no address of a Redis: write redis://HOST:PORT, rediss://HOST:PORT or unix:PATH`)
}

/** Resolves when commands get through. @throws MeshError UNAVAILABLE after `limitMs`. */
export const redisReady = (client: RedisClient, limitMs: number): Promise<void> => {
  if (client.status === 'ready') return Promise.resolve()
  return new Promise((resolve, reject) => {
    let last = 'no answer'
    const onError = (error: Error): void => {
      last = error.message
    }
    const timer = setTimeout(() => {
      settle()
      reject(new MeshError(Code.UNAVAILABLE, `Redis cannot be reached within ${limitMs / 1000} s: ${last}`))
    }, limitMs)
    const onReady = (): void => {
      settle()
      resolve()
    }
    const settle = (): void => {
      clearTimeout(timer)
      client.off('ready', onReady)
      client.off('error', onError)
    }
    client.once('ready', onReady)
    client.on('error', onError)
  })
}

/** What a command threw, as the UNAVAILABLE a caller is told; a MeshError stays what it is. */
export const redisError = (thrown: unknown): MeshError => {
  if (thrown instanceof MeshError) return thrown
  const message = thrown instanceof Error ? thrown.message : String(thrown)
  return new MeshError(Code.UNAVAILABLE, `The request queue cannot be reached: try again in a moment (${message}).`, {
    cause: thrown,
    reason: 'queue_unavailable',
  })
}

/** Ends a connection; commands still waiting on it fail. */
export const closeRedis = (client: RedisClient): void => client.disconnect()

const digests = new Map<string, string>()

/** Runs a Lua script, all of it or nothing at a time; it is sent once to each Redis. */
export const runScript = async (
  client: RedisClient,
  script: string,
  args: readonly (string | number)[],
): Promise<unknown> => {
  const digest = digests.get(script) ?? createHash('sha1').update(script).digest('hex')
  digests.set(script, digest)
  try {
    return await client.evalsha(digest, 0, ...args)
  } catch (error) {
    if (!(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw error
    return client.eval(script, 0, ...args)
  }
}
