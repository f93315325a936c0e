import { type RedisClient, redisError, runScript } from '../../../../shared/redis.ts'
import { type Archive, archiveMaxBytes, type Found, itemBytes, type Verdict } from './archive.ts'
import * as scripts from './scripts.ts'

/** Expired items removed at a time. */
const SWEEP_COUNT = 100

/** The archive that all gateways of a model share. Every key begins with `prefix`. */
export const openRedisArchive = (client: RedisClient, prefix: string, maxBytes = archiveMaxBytes): Archive => {
  const run = async (script: string, ...args: (string | number)[]): Promise<unknown> => {
    try {
      return await runScript(client, script, [prefix, ...args])
    } catch (error) {
      throw redisError(error)
    }
  }
  const ask = async <T>(command: Promise<T>): Promise<T> => {
    try {
      return await command
    } catch (error) {
      throw redisError(error)
    }
  }
  const key = (kind: string, id: string): string => `${prefix}${kind}:${id}`
  return {
    async add({ id, kind, tenant, state, body, expiresAtMs }, bounded) {
      const limit = bounded ? maxBytes : ''
      const added = await run(scripts.add, id, itemBytes, limit, kind, tenant, state, body, expiresAtMs ?? '')
      return added === 1
    },
    async find(id) {
      const { kind, tenant, state, body, expires, version } = await ask(client.hgetall(key('item', id)))
      if (kind === undefined) return null
      const found = { id, kind, tenant, state, body, version: Number(version) } as Found
      return { ...found, expiresAtMs: expires === '' ? null : Number(expires) }
    },
    list: async (kind, tenant) => (await run(scripts.list, `${kind}:${tenant}`)) as string[],
    async change(id, { version, owner, bounded, clear, body, state, expiresAtMs, parts = [] }) {
      const guards = [version ?? '', owner ?? '', bounded ? maxBytes : '', clear ? 1 : 0]
      const expires = expiresAtMs === undefined ? 'same' : (expiresAtMs ?? '')
      return (await run(scripts.change, id, ...guards, body ?? '', state ?? '', expires, ...parts.flat())) as Verdict
    },
    parts: (id, names) => (names.length === 0 ? Promise.resolve([]) : ask(client.hmget(key('parts', id), ...names))),
    names: (id) => ask(client.hkeys(key('parts', id))),
    async remove(id) {
      await run(scripts.remove, itemBytes, id)
    },
    open: () => ask(client.smembers(`${prefix}open`)),
    lease: async (id, owner, forMs) => (await run(scripts.lease, id, owner, forMs)) === 1,
    async renew(id, owner, forMs) {
      const version = await run(scripts.renew, id, owner, forMs)
      return version === null ? null : Number(version)
    },
    async release(id, owner) {
      await run(scripts.release, id, owner)
    },
    async sweep(nowMs) {
      await run(scripts.sweep, itemBytes, nowMs, SWEEP_COUNT)
    },
  }
}
