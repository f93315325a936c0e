import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Precision } from '../../shared/model/config.ts'
import { packageRoot } from '../../shared/root.ts'

const main = join(packageRoot, 'dist', 'services', 'cli', 'main.js')

/** The model every clone has. */
export const demo = join(packageRoot, 'models', 'demo')

/** The first start on a machine converts the model's weights. */
const startLimitMs = 120_000
const stopLimitMs = 20_000

export type Cluster = {
  /** http://127.0.0.1:PORT */
  url: string
  /** 127.0.0.1:PORT */
  grpc: string
  /** The process that the person at the terminal sees; gateway and workers are its children. */
  process: ChildProcess
  /** What it has written to stderr. */
  log(): string
  /** Ends all processes as Ctrl-C does and resolves with the exit status; null when they had to be killed. */
  stop(): Promise<number | null>
}

export type ClusterOptions = {
  model?: string
  workers?: number
  precision?: Precision
  /** More flags of `expertmesh up`. */
  args?: readonly string[]
  /** On top of this process's environment. */
  env?: Readonly<Record<string, string>>
}

/** Nothing outlives the tests, however they end. */
const killGroup = (child: ChildProcess): void => {
  try {
    if (child.pid) process.kill(-child.pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

const ended = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null

const stop = async (child: ChildProcess): Promise<number | null> => {
  if (!ended(child)) {
    const exit = once(child, 'exit')
    child.kill('SIGTERM')
    const kill = setTimeout(() => killGroup(child), stopLimitMs)
    await exit
    clearTimeout(kill)
  }
  killGroup(child)
  return child.exitCode
}

/** A cluster of processes on free ports, as `expertmesh up` starts it; ready to serve. Needs `npm run build`. */
export const startCluster = async (options: ClusterOptions = {}): Promise<Cluster> => {
  if (!existsSync(main)) throw new Error('dist is missing: run npm run build, or npm test, which does')
  const { model = demo, workers = 2, precision, args = [], env = {} } = options
  const flags = ['--model', model, '--workers', String(workers), ...(precision ? ['--precision', precision] : [])]
  const listen = ['--listen', '127.0.0.1:0', '--grpc-listen', '127.0.0.1:0']
  const child = spawn(process.execPath, [main, 'up', ...flags, ...listen, ...args], {
    // A group of its own, so that killGroup finds children whose parent is gone.
    detached: true,
    env: { ...process.env, ...env },
    // The channel tells it when the tests are gone, however they went.
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  const { stdout, stderr } = child
  assert(stdout && stderr)
  const onExit = (): void => killGroup(child)
  process.once('exit', onExit)
  child.once('exit', () => process.off('exit', onExit))
  let log = ''
  stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text
  })
  let url: string | undefined
  let grpc: string | undefined
  const listening = new Promise<Cluster>((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`not listening after ${startLimitMs} ms:\n${log}`)), startLimitMs)
    child.once('exit', (code, signal) => {
      clearTimeout(late)
      reject(new Error(`expertmesh up ended with ${code ?? signal}:\n${log}`))
    })
    createInterface(stdout).on('line', (line) => {
      url ??= /^listening (http:\S+)$/.exec(line)?.[1]
      grpc ??= /^listening grpc (\S+)$/.exec(line)?.[1]
      if (!url || !grpc) return
      clearTimeout(late)
      resolve({ url, grpc, process: child, log: () => log, stop: () => stop(child) })
    })
  })
  return listening.catch(async (error) => {
    await stop(child)
    throw error
  })
}
