import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Code, MeshError } from '../../../shared/errors.ts'
import { memoryFreeBytes } from '../../../shared/machine.ts'
import { built } from '../../../shared/root.ts'
import { socketFolder } from '../../../shared/shm.ts'

const MIB = 2 ** 20
/** Of the memory that is free when it starts, for what it will hold. */
const MEMORY_SHARE = 0.8
/** What a worker process takes before it holds anything. */
const PROCESS_BYTES = 160 * MIB
const START_LIMIT_MS = 60_000
/** Time it has to end after SIGTERM. */
const GRACE_MS = 5_000

/** A worker process of this gateway's own, on this machine: it holds experts for which no other worker has room. */
export type Spare = {
  address: string
  /** Resolves when the process has ended. */
  ended: Promise<void>
  stop(): Promise<void>
}

export type SpareOptions = { modelDir: string; cacheDir: string; threads: number; bytes: number }

/** @throws MeshError RESOURCE_EXHAUSTED when this machine has no memory for that many bytes of experts, UNAVAILABLE when it does not start. */
export const startSpare = async ({ modelDir, cacheDir, threads, bytes }: SpareOptions): Promise<Spare> => {
  const memoryBytes = memoryFreeBytes() * MEMORY_SHARE - PROCESS_BYTES
  if (memoryBytes < bytes) {
    const mib = (n: number): string => (Math.max(0, n) / MIB).toFixed(1)
    const cause = `experts of ${mib(bytes)} MiB have no worker, and the gateway's machine has ${mib(memoryBytes)} MiB for them`
    throw new MeshError(Code.RESOURCE_EXHAUSTED, `${cause}: add a worker`)
  }
  const folder = await mkdtemp(join(socketFolder(), 'expertmesh-spare-'))
  const limits = ['--threads', String(threads), '--memory-mib', String(Math.max(1, Math.floor(memoryBytes / MIB)))]
  const flags = ['--listen', `unix:${join(folder, 'worker')}`, '--models', modelDir, '--cache', cacheDir, ...limits]
  // The channel tells it when this process is gone, however it went.
  const child = spawn(process.execPath, [...process.execArgv, built('services/worker/main.ts'), ...flags], {
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  })
  assert(child.stdout)
  const exit = once(child, 'close')
  const ended = exit.then(
    () => rm(folder, { recursive: true, force: true }),
    () => rm(folder, { recursive: true, force: true }),
  )
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), GRACE_MS)
    await ended
    clearTimeout(timer)
  }
  const lines = createInterface(child.stdout)
  const limit = AbortSignal.timeout(START_LIMIT_MS)
  try {
    const first = await Promise.race([once(lines, 'line', { signal: limit }), ended.then(() => null)])
    if (first === null) throw new Error('it ended')
    return { address: String(first[0]).replace(/^listening /, ''), ended, stop }
  } catch (error) {
    await stop()
    const cause = `the gateway's own worker did not start: ${(error as Error).message}`
    throw new MeshError(Code.UNAVAILABLE, cause, { cause: error })
  }
}
