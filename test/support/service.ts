import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { COMPUTE_FLAGS, computeEnv } from '../../services/cli/config.ts'
import { packageRoot } from '../../shared/root.ts'

export type ServiceProcess = {
  /** What a client dials: a worker's gRPC, a gateway's HTTP. */
  address: string
  /** HOST:PORT of a gateway's gRPC; '' for a worker. */
  grpc: string
  process: ChildProcess
  /** What it has written to stderr. */
  log(): string
  /** SIGTERM, then the exit status. */
  stop(): Promise<number | null>
}

/**
 * A worker process, on a free port and with the demo model unless the flags say otherwise; env goes on top of this process's.
 * onSpawn is told its id before it has done anything of note.
 */
export const startWorker = (
  flags: readonly string[],
  env: Readonly<Record<string, string>> = {},
  onSpawn: (pid: number) => void = () => {},
): Promise<ServiceProcess> => {
  const models = flags.includes('--models') ? [] : ['--models', join(packageRoot, 'models')]
  return startService('worker', ['--listen', '127.0.0.1:0', ...models, ...flags], env, onSpawn)
}

/** A gateway process on free ports. */
export const startGateway = (flags: readonly string[]): Promise<ServiceProcess> =>
  startService('gateway', ['--listen', '127.0.0.1:0', ...flags], {})

/** Nothing outlives the tests, not even what hangs. */
const running = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Needs `npm run build`. */
const startService = async (
  service: 'worker' | 'gateway',
  flags: readonly string[],
  env: Readonly<Record<string, string>>,
  onSpawn: (pid: number) => void = () => {},
): Promise<ServiceProcess> => {
  const main = join(packageRoot, 'dist', 'services', service, 'main.js')
  if (!existsSync(main)) throw new Error('dist is missing: run npm run build, or npm test, which does')
  const child = spawn(process.execPath, [...COMPUTE_FLAGS, main, ...flags], {
    env: computeEnv({ ...process.env, ...env }),
    // The channel tells it when the tests are gone, however they went.
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  const { stdout, stderr } = child
  assert(stdout && stderr)
  running.add(child)
  if (child.pid) onSpawn(child.pid)
  child.once('exit', () => running.delete(child))
  let log = ''
  stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text
  })
  const [address, grpc = ''] = await new Promise<string[]>((resolve, reject) => {
    const lines: string[] = []
    createInterface(stdout).on('line', (line) => {
      lines.push(line.replace(/^listening (grpc )?/, ''))
      if (lines.length === (service === 'gateway' ? 2 : 1)) resolve(lines)
    })
    child.once('close', (status) => reject(new Error(`the process ended with ${status}:\n${log}`)))
  })
  const stop = async (): Promise<number | null> => {
    if (child.exitCode === null && child.signalCode === null) {
      const exit = once(child, 'exit')
      child.kill('SIGTERM')
      await exit
    }
    return child.exitCode
  }
  return { address, grpc, process: child, log: () => log, stop }
}
