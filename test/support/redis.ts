import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe } from 'vitest'
import { closeRedis, openRedis, type RedisClient, redisReady } from '../../shared/redis.ts'

const startLimitMs = 20_000

const program = ['redis-server', 'valkey-server'].find((name) => !spawnSync(name, ['--version']).error)

/** A suite that needs a Redis: npm test installs one where it may, and where there is none the tests count as skipped. */
export const describeRedis = program === undefined ? describe.skip : describe

/** A Redis of one test on a unix socket, which does not lose what it has acknowledged. */
export type TestRedis = {
  /** unix:PATH */
  address: string
  client: RedisClient
  /** SIGKILL. */
  kill(): Promise<void>
  /** On the same data. */
  restart(): Promise<void>
  close(): Promise<void>
}

export const startRedis = async (): Promise<TestRedis> => {
  const directory = await mkdtemp(join(tmpdir(), 'expertmesh-redis-test-'))
  const socket = join(directory, 'socket')
  const address = `unix:${socket}`
  const durable = ['--appendonly', 'yes', '--appendfsync', 'always', '--save', '']
  const launch = (): ChildProcess =>
    spawn(program ?? 'redis-server', ['--port', '0', '--unixsocket', socket, '--dir', directory, ...durable], {
      stdio: 'ignore',
    })
  let child = launch()
  const killAtExit = (): void => void child.kill('SIGKILL')
  process.once('exit', killAtExit)
  const client = openRedis(address, 'patient', () => {})
  await redisReady(client, startLimitMs)
  const kill = async (): Promise<void> => {
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }
  return {
    address,
    client,
    kill,
    async restart() {
      child = launch()
      await redisReady(client, startLimitMs)
    },
    async close() {
      closeRedis(client)
      if (child.exitCode === null && child.signalCode === null) await kill()
      process.off('exit', killAtExit)
      await rm(directory, { recursive: true, force: true })
    },
  }
}
