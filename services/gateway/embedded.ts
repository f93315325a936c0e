import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, existsSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Code, MeshError } from '../../shared/errors.ts'

/** Gateways of one machine that keep a Redis each under one cache. */
const FOLDERS_MAX = 64
/** flock's exit status where another gateway has the folder. */
const TAKEN = 75
const RESTART_MS = 250
const LOOK_MS = 5
const STOP_LIMIT_MS = 5_000

/**
 * Ends what it runs when its standard input closes, which it does however this process ends. The lock is held by Redis itself, so
 * that nobody takes its folder before it is gone.
 */
const GUARD = 'exec 3<&0; "$@" </dev/null & child=$!; (cat <&3 >/dev/null; kill "$child" 2>/dev/null) & wait "$child"'

export type Embedded = {
  /** unix:PATH */
  address: string
  /** Where its data is kept: the next gateway with this cache finds the requests there. */
  folder: string
  close(): Promise<void>
}

/** The first of these programs on the PATH. */
const found = (path: string, ...names: string[]): string | null => {
  for (const name of names)
    for (const directory of path.split(delimiter)) {
      const file = join(directory, name)
      try {
        accessSync(file, constants.X_OK)
        return file
      } catch {
        // Not here.
      }
    }
  return null
}

/** Once with the folder taken, `null`; the process otherwise. It has begun when its socket answers. */
const launch = async (command: readonly string[]): Promise<ChildProcess> => {
  // A process group of its own: Ctrl-C at a terminal is for the gateway, which drains first.
  const child = spawn('sh', ['-c', GUARD, 'sh', ...command], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  child.stdin?.on('error', () => {})
  child.once('exit', () => child.stdin?.destroy())
  await once(child, 'spawn')
  return child
}

/** Dialled before it is there, a client would come back later than Redis takes to start. */
const listening = async (socket: string, child: ChildProcess): Promise<void> => {
  while (!existsSync(socket) && child.exitCode === null && child.signalCode === null) await delay(LOOK_MS)
}

const settings = (folder: string, socket: string): string[] => [
  ...['--port', '0', '--unixsocket', socket, '--unixsocketperm', '700', '--dir', folder],
  ...['--appendonly', 'yes', '--appendfsync', 'always', '--save', '', '--maxmemory-policy', 'noeviction'],
  ...['--daemonize', 'no', '--logfile', join(folder, 'redis.log')],
]

/**
 * A Redis of this gateway alone, on a socket that only its user can open, with its data in a folder under `directory` that no other
 * gateway uses. It is started again should it end, and ends with this process however that ends. null where none is installed.
 * @param path the PATH to look on
 * @throws MeshError UNAVAILABLE when it does not start.
 */
export const openEmbedded = async (
  directory: string,
  path: string,
  isReady: (address: string) => Promise<void>,
): Promise<Embedded | null> => {
  const server = found(path, 'redis-server', 'valkey-server')
  const flock = found(path, 'flock')
  if (server === null || flock === null) return null
  const sockets = await mkdtemp(join(tmpdir(), 'expertmesh-redis-'))
  const socket = join(sockets, 'socket')
  const address = `unix:${socket}`
  for (let slot = 0; slot < FOLDERS_MAX; slot++) {
    const folder = join(directory, String(slot))
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const lock = [flock, '-n', '-E', String(TAKEN), '-F', join(folder, 'lock')]
    const command = [...lock, server, ...settings(folder, socket)]
    const child = await launch(command)
    const answers = listening(socket, child).then(() => isReady(address))
    const first = await Promise.race([once(child, 'exit'), answers])
    if (first === undefined) return keep(child, command, { address, folder, sockets })
    if (first[0] === TAKEN) continue
    await rm(sockets, { recursive: true, force: true })
    throw new MeshError(
      Code.UNAVAILABLE,
      `${server} ended with status ${first[0]}: ${join(folder, 'redis.log')} says why`,
    )
  }
  await rm(sockets, { recursive: true, force: true })
  throw new MeshError(Code.UNAVAILABLE, `${FOLDERS_MAX} gateways already keep a Redis under ${directory}: give --redis`)
}

const keep = (
  first: ChildProcess,
  command: readonly string[],
  { address, folder, sockets }: { address: string; folder: string; sockets: string },
): Embedded => {
  let child = first
  let closed = false
  const watch = (): void => {
    child.once('exit', async () => {
      await delay(RESTART_MS)
      if (closed) return
      child = await launch(command)
      watch()
    })
  }
  watch()
  return {
    address,
    folder,
    async close() {
      closed = true
      if (child.exitCode === null && child.signalCode === null) {
        const exit = once(child, 'exit')
        child.stdin?.end()
        const kill = setTimeout(() => child.pid && process.kill(-child.pid, 'SIGKILL'), STOP_LIMIT_MS)
        await exit
        clearTimeout(kill)
      }
      await rm(sockets, { recursive: true, force: true })
    },
  }
}
