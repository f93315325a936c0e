import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, openSync, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'

const PACKAGES = ['docker.io', 'docker-compose', 'debootstrap']
const APT_LIMIT_MS = 10 * 60_000
const DAEMON_START_LIMIT_MS = 60_000
const DAEMON_END_LIMIT_MS = 60_000
const PULL_LIMIT_MS = 5 * 60_000
const POLL_MS = 200
/** Of what a failed command said, this much is told. */
const WORDS_MAX = 4000
const OUTPUT_BYTES_MAX = 64 * 2 ** 20

const NODE_IMAGE = 'node:20-bookworm-slim'
const STAND_IN = 'expertmesh-node:stand-in'

/** The environment on top of this process's, and the longest time a command may take. */
type Options = { env?: NodeJS.ProcessEnv; limitMs?: number }

export type Engine = {
  /** Runs a program against this engine and returns what it writes to stdout. Rejects when it fails, with its last words. */
  run(command: string, args: readonly string[], options?: Options): Promise<string>
  /** How compose is called here. */
  compose: readonly string[]
  /** Variables that docker-compose.yml is built with: the node image, and the network of the build. */
  build: Readonly<Record<string, string>>
  /** Ends the engine if it was started for these tests, and removes what was made for them. */
  close(): Promise<void>
}

const exec = promisify(execFile)

const run = async (command: string, args: readonly string[], { env = {}, limitMs = 0 }: Options = {}) => {
  const options = { env: { ...process.env, ...env }, timeout: limitMs, maxBuffer: OUTPUT_BYTES_MAX }
  try {
    return (await exec(command, [...args], options)).stdout
  } catch (error) {
    // The message has all of stderr, and nothing of stdout.
    const { message, stdout = '' } = error as Error & { stdout?: string }
    throw new Error(`${message.slice(0, WORDS_MAX)}\n${stdout.slice(-WORDS_MAX)}`)
  }
}

const works = async (command: string, args: readonly string[], options: Options = {}): Promise<boolean> => {
  try {
    await run(command, args, options)
    return true
  } catch {
    return false
  }
}

/** The ways compose is called on this machine: docker's plugin, and docker-compose 1.29. */
export const composeTools = async (): Promise<readonly (readonly string[])[]> => {
  const tools = [['docker', 'compose'], ['docker-compose']]
  const present = await Promise.all(tools.map(([command, ...args]) => works(command, [...args, 'version'])))
  return tools.filter((_, i) => present[i])
}

/** Installs docker, compose and debootstrap where that is possible and something of it is missing. */
export const installTools = async (): Promise<void> => {
  const present = await Promise.all([works('dockerd', ['--version']), works('debootstrap', ['--version'])])
  if (present.every(Boolean) && (await composeTools()).length > 0) return
  if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) return
  const options = { limitMs: APT_LIMIT_MS, env: { DEBIAN_FRONTEND: 'noninteractive' } }
  await works('apt-get', ['-q', 'update'], options)
  await works('apt-get', ['-q', '-y', '--no-install-recommends', 'install', ...PACKAGES], options)
}

type Daemon = { host: string; stop(): Promise<void> }

/** A dockerd of our own, with everything it keeps in one temporary folder. */
const startDaemon = async (): Promise<Daemon> => {
  const folder = await mkdtemp(join(tmpdir(), 'expertmesh-docker-'))
  let words = ''
  // vfs needs nothing of the kernel.
  for (const driver of [[], ['--storage-driver', 'vfs']]) {
    const daemon = await tryDaemon(folder, driver)
    if (typeof daemon !== 'string') return daemon
    words = daemon
  }
  await remove(folder)
  throw new Error(`dockerd does not run here: ${words}`)
}

const tryDaemon = async (folder: string, driver: readonly string[]): Promise<Daemon | string> => {
  const at = (name: string): string => join(folder, name)
  const host = `unix://${at('socket')}`
  const places = ['--data-root', at('data'), '--exec-root', at('run'), '--pidfile', at('pid'), '--host', host]
  const log = openSync(at('log'), 'w')
  const child = spawn('dockerd', [...places, '--bridge', 'none', ...driver], { stdio: ['ignore', log, log] })
  const endWithTests = (): void => void child.kill('SIGTERM')
  process.once('exit', endWithTests)
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve())
    child.once('error', () => resolve())
  }).then(() => process.off('exit', endWithTests))
  const giveUpAt = performance.now() + DAEMON_START_LIMIT_MS
  while (!hasEnded(child) && performance.now() < giveUpAt) {
    if (await works('docker', ['info'], { env: { DOCKER_HOST: host } }))
      return { host, stop: () => end(child).then(() => remove(folder)) }
    await Promise.race([ended, delay(POLL_MS)])
  }
  await end(child)
  return readFileSync(at('log'), 'utf8').slice(-1000)
}

const hasEnded = ({ exitCode, signalCode, pid }: ChildProcess): boolean =>
  exitCode !== null || signalCode !== null || pid === undefined

const end = async (child: ChildProcess): Promise<void> => {
  if (hasEnded(child)) return
  const exit = once(child, 'exit')
  child.kill('SIGTERM')
  const kill = setTimeout(() => child.kill('SIGKILL'), DAEMON_END_LIMIT_MS)
  await exit
  clearTimeout(kill)
}

/** A daemon may leave mounts in its folder. */
const remove = async (folder: string): Promise<void> => {
  const mounts = (await readFile('/proc/mounts', 'utf8')).split('\n').map((line) => line.split(' ')[1] ?? '')
  for (const mount of mounts.filter((path) => path.startsWith(`${folder}/`)).reverse()) await works('umount', [mount])
  await rm(folder, { recursive: true, force: true })
}

/** The image that ours is built on: Node's own where it can be had, else a stand-in made here. */
const nodeImage = async (env: NodeJS.ProcessEnv): Promise<string> => {
  if (await works('docker', ['image', 'inspect', NODE_IMAGE], { env })) return NODE_IMAGE
  if (await works('docker', ['pull', NODE_IMAGE], { env, limitMs: PULL_LIMIT_MS })) return NODE_IMAGE
  await run(join(import.meta.dirname, 'standin.sh'), [STAND_IN], { env, limitMs: APT_LIMIT_MS })
  return STAND_IN
}

/** The engine that runs on this machine, else one started for these tests; where neither can be had, the reason as text. */
export const openEngine = async (): Promise<Engine | string> => {
  await installTools()
  const [compose] = await composeTools()
  if (!compose) return 'neither docker compose nor docker-compose is here, and they could not be installed'
  let daemon: Daemon | null = null
  let image: string | null = null
  const env: NodeJS.ProcessEnv = {}
  const close = async (): Promise<void> => {
    if (image === STAND_IN) await works('docker', ['image', 'rm', '--force', STAND_IN], { env })
    await daemon?.stop()
  }
  try {
    if (!(await works('docker', ['info']))) {
      daemon = await startDaemon()
      env.DOCKER_HOST = daemon.host
    }
    image = await nodeImage(env)
  } catch (error) {
    await close()
    return (error as Error).message
  }
  // A stand-in is made where names are resolved in ways that containers may not share.
  const network = image === STAND_IN ? 'host' : 'default'
  return {
    run: (command, args, options = {}) => run(command, args, { ...options, env: { ...env, ...options.env } }),
    compose,
    build: { NODE_IMAGE: image, BUILD_NETWORK: network },
    close,
  }
}
