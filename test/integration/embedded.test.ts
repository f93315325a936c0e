import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { type Embedded, openEmbedded } from '../../services/gateway/embedded.ts'
import { closeRedis, openRedis, redisReady } from '../../shared/redis.ts'
import { built } from '../../shared/root.ts'
import { describeRedis } from '../support/redis.ts'

const limitMs = 20_000

const untilReady = async (address: string): Promise<void> => {
  const client = openRedis(address, 'patient', () => {})
  await redisReady(client, limitMs).finally(() => closeRedis(client))
}

let directory: string
const opened: Embedded[] = []
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'expertmesh-embedded-'))
})
afterEach(async () => {
  for (const embedded of opened.splice(0)) await embedded.close()
  await rm(directory, { recursive: true, force: true })
})

const open = async (path = process.env.PATH ?? ''): Promise<Embedded> => {
  const embedded = await openEmbedded(directory, path, untilReady)
  if (!embedded) throw new Error('there is a Redis on the PATH')
  opened.push(embedded)
  return embedded
}

/** One command on a connection of its own; it waits while Redis is away. */
const ask = async (address: string, ...[command, ...args]: string[]): Promise<unknown> => {
  const client = openRedis(address, 'patient', () => {})
  try {
    return await client.call(command, ...args)
  } finally {
    closeRedis(client)
  }
}

/** Process id of the server at an address. */
const pidOf = async (address: string): Promise<number> =>
  Number(/process_id:(\d+)/.exec(String(await ask(address, 'INFO', 'server')))?.[1])

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

describeRedis('the Redis of one gateway', () => {
  it('is nobody else’s, writes every command to disk, and listens on no port', async () => {
    const [a, b] = [await open(), await open()]
    expect(a.folder).not.toBe(b.folder)
    await ask(a.address, 'SET', 'whose', 'a')
    expect(await ask(b.address, 'GET', 'whose')).toBe(null)
    const setting = async (name: string) => ((await ask(a.address, 'CONFIG', 'GET', name)) as string[])[1]
    expect(await setting('appendfsync')).toBe('always')
    expect(await setting('maxmemory-policy')).toBe('noeviction')
    expect(await setting('port')).toBe('0')
  })

  it('keeps its data for the gateway that comes next', async () => {
    const first = await open()
    await ask(first.address, 'SET', 'kept', 'yes')
    await first.close()
    const next = await open()
    expect(next.folder).toBe(first.folder)
    expect(await ask(next.address, 'GET', 'kept')).toBe('yes')
  })

  it('is started again when it is killed, with all it had acknowledged', async () => {
    const { address } = await open()
    await ask(address, 'SET', 'kept', 'yes')
    const pid = await pidOf(address)
    process.kill(pid, 'SIGKILL')
    await expect.poll(() => alive(pid), { timeout: limitMs }).toBe(false)
    expect(await ask(address, 'GET', 'kept')).toBe('yes')
    expect(await pidOf(address)).not.toBe(pid)
  })

  it('ends with its gateway, even one that is killed', async () => {
    const embedded = pathToFileURL(built('services/gateway/embedded.ts')).href
    const redis = pathToFileURL(built('shared/redis.ts')).href
    const program = `
      import { openEmbedded } from '${embedded}'
      import { openRedis, redisReady, closeRedis } from '${redis}'
      const ready = async (address) => {
        const client = openRedis(address, 'patient', () => {})
        await redisReady(client, ${limitMs})
        closeRedis(client)
      }
      console.log((await openEmbedded(process.argv[1], process.env.PATH, ready)).address)
      setInterval(() => {}, 1000)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', program, directory], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [address] = await once(createInterface(child.stdout), 'line')
    const pid = await pidOf(address)
    child.kill('SIGKILL')
    await expect.poll(() => alive(pid), { timeout: limitMs }).toBe(false)
    // Nobody holds its folder any more.
    expect((await open()).folder).toBe(join(directory, '0'))
    expect(await readFile(join(directory, '0', 'redis.log'), 'utf8')).toContain('bye')
  })

  it('does not exist where none is installed', async () => {
    expect(await openEmbedded(directory, directory, untilReady)).toBe(null)
  })
})
