import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { isAddress, isUnspecified } from '../../shared/address.ts'
import { Code, invalid, MeshError } from '../../shared/errors.ts'
import { coresAllowed, memoryAllowedBytes } from '../../shared/machine.ts'
import type { Device } from '../../shared/model/session.ts'

/** Checked and frozen: what a worker is started with. */
export type WorkerConfig = {
  /** HOST:PORT or unix:PATH. */
  listen: string
  modelFolders: readonly string[]
  cacheDir: string
  device: Device
  /** Threads that run experts, and the threads inside one of their operators. */
  computeThreads: number
  threadsPerLane: number
  memoryLimitBytes: number
  maxFrameBytes: number
  maxQueuedFrames: number
  /** gRPC addresses of gateways to register at. */
  gateways: readonly string[]
  /** Redis to register in. */
  redis: string | null
  /** What they are to dial; null: where it listens. */
  advertise: string | null
  drainTimeoutMs: number
  token: string | null
  /** Listens off loopback without a token: the operator asked for it. */
  exposed: boolean
}

const MIB = 2 ** 20
const MEMORY_SHARE = 0.8
const TOKEN_CHARACTERS_MIN = 16
const FRAME_MIB_MAX = 1024

const HELP = `
Environment: EXPERTMESH_MODELS and EXPERTMESH_CACHE are the defaults of --models and --cache.

Examples:
  expertmesh worker                                            one worker on this machine, port 7070
  expertmesh worker --listen unix:/run/expertmesh/a.sock       for a gateway on the same machine (fastest)
  expertmesh worker --listen 0.0.0.0:7070 --token-file token   for gateways elsewhere
  expertmesh worker --listen 0.0.0.0:7070 --token-file token --gateway gateway.lan:9090
                                                               joins a gateway that runs with --join

A worker holds nothing until a gateway tells it what to load. It says "listening ADDRESS" when it is ready.
At SIGTERM it goes on answering until the gateways that use it have its experts elsewhere; at a second one it ends at once.`

const COMPUTE_THREADS_MAX = 64

type Flags = {
  listen: string
  models: string[]
  cache: string
  device: Device
  threads: number
  computeThreads?: number
  memoryMib: number
  maxFrameMib: number
  maxQueuedFrames: number
  gateway: string[]
  redis?: string
  advertise?: string
  drainTimeoutMs: number
  tokenFile?: string
  insecure: boolean
}

const atLeast =
  (least: number, most: number = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = Number(text)
    if (Number.isInteger(value) && value >= least && value <= most) return value
    const bound = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`
    throw new InvalidArgumentError(`It must be a whole number ${bound}.`)
  }

const append = (folder: string, before: string[] | undefined): string[] => [...(before ?? []), folder]

/** The flags of a worker, for its own --help and the CLI's. */
export const workerCommand = (env: NodeJS.ProcessEnv = process.env): Command => {
  const cores = coresAllowed()
  const memoryMib = Math.floor((memoryAllowedBytes() * MEMORY_SHARE) / MIB)
  return new Command('worker')
    .description('Runs routed experts for gateways.')
    .option('--listen <address>', 'HOST:PORT (port 0 takes a free one) or unix:PATH', '127.0.0.1:7070')
    .option(
      '--models <dir>',
      `a model's folder, or a folder of such; may be repeated (default: "${env.EXPERTMESH_MODELS ?? 'models'}")`,
      append,
    )
    .option(
      '--cache <dir>',
      'where converted weights are kept',
      env.EXPERTMESH_CACHE ?? join(homedir(), '.cache', 'expertmesh'),
    )
    .addOption(new Option('--device <device>', 'where experts run').choices(['cpu', 'webgpu', 'cuda']).default('cpu'))
    .option('--threads <n>', 'cores to use, all compute threads together', atLeast(1, 1024), cores)
    .option(
      '--compute-threads <n>',
      'experts that run at the same time (default: --threads, or half of an even number above 2; 1 on a GPU)',
      atLeast(1, COMPUTE_THREADS_MAX),
    )
    .option(
      '--memory-mib <n>',
      'memory for held experts (default: 80 % of what this process may use)',
      atLeast(1),
      memoryMib,
    )
    .option('--max-frame-mib <n>', 'largest frame and answer', atLeast(1, FRAME_MIB_MAX), 64)
    .option('--max-queued-frames <n>', 'unanswered frames per gateway', atLeast(1, 1_000_000), 1024)
    .option('--gateway <address>', 'gRPC address of a gateway with --join to register at; may be repeated', append, [])
    .option(
      '--redis <url>',
      'Redis of gateways with --join to register in (default: $REDIS_URL where others can dial this worker, else none)',
    )
    .option(
      '--advertise <address>',
      'what gateways dial: HOST:PORT or unix:PATH (default: where it listens; for 0.0.0.0, the address they see it call from)',
    )
    .option(
      '--drain-timeout-ms <n>',
      'longest time from SIGTERM for gateways to have its experts elsewhere',
      atLeast(0),
      30_000,
    )
    .option('--token-file <file>', 'gateways must present the token in this file')
    .option('--insecure', 'allow listening beyond this machine without a token', false)
    .addHelpText('after', HELP)
}

/**
 * @param argv the flags alone.
 * @throws MeshError INVALID_ARGUMENT for flags that contradict each other or a token file that is no use. Unknown flags and
 * --help end the process, as commander does.
 */
export const parseWorkerConfig = (argv: readonly string[], env: NodeJS.ProcessEnv = process.env): WorkerConfig => {
  const command = workerCommand(env)
  command.parse([...argv], { from: 'user' })
  const flags = command.opts<Flags>()
  const { listen, threads, computeThreads = computeThreadsOf(flags) } = flags
  for (const [flag, given] of [
    ['listen', listen],
    ['advertise', flags.advertise],
  ] as const)
    checkAddress(flag, given)
  for (const gateway of flags.gateway) checkAddress('gateway', gateway)
  // An address that only this machine can dial is of no use to others, unless it is meant.
  const registers = flags.advertise !== undefined || !isLocal(listen)
  const redis = flags.redis ?? ((registers && env.REDIS_URL) || null)
  if (redis !== null && flags.advertise === undefined && isUnspecified(listen)) {
    const cause = `nobody can dial ${listen}, and Redis does not show where a worker is`
    throw invalid(`${cause}: give --advertise HOST:PORT`, 'advertise')
  }
  if (computeThreads > threads) {
    throw invalid(
      `--compute-threads ${computeThreads} needs --threads of at least as many, and it is ${threads}`,
      'compute-threads',
    )
  }
  if (flags.device === 'webgpu' && computeThreads > 1) {
    const cause = "WebGPU's library serves one thread of a process"
    throw invalid(`${cause}: leave --compute-threads at 1, or start more workers`, 'compute-threads')
  }
  const token = flags.tokenFile === undefined ? null : readToken(flags.tokenFile)
  const exposed = token === null && !isLocal(listen)
  if (exposed && !flags.insecure) {
    const cause = `listening on ${listen} without a token would let anyone use this worker`
    throw invalid(`${cause}; give --token-file, listen on 127.0.0.1, or insist with --insecure`, 'listen')
  }
  return Object.freeze({
    listen,
    modelFolders: flags.models ?? [env.EXPERTMESH_MODELS ?? 'models'],
    cacheDir: flags.cache,
    device: flags.device,
    computeThreads,
    threadsPerLane: Math.floor(threads / computeThreads),
    memoryLimitBytes: flags.memoryMib * MIB,
    maxFrameBytes: flags.maxFrameMib * MIB,
    maxQueuedFrames: flags.maxQueuedFrames,
    gateways: flags.gateway,
    redis,
    advertise: flags.advertise ?? null,
    drainTimeoutMs: flags.drainTimeoutMs,
    token,
    exposed,
  })
}

/** Small matrices: an expert's rows keep one core busy, or two, and a frame brings rows for several experts. */
const computeThreadsOf = ({ device, threads }: Flags): number => {
  if (device !== 'cpu') return 1
  return Math.min(COMPUTE_THREADS_MAX, threads > 2 && threads % 2 === 0 ? threads / 2 : threads)
}

const checkAddress = (flag: string, given: string | undefined): void => {
  if (given === undefined || isAddress(given)) return
  throw invalid(`--${flag} ${given} is neither HOST:PORT nor unix:PATH`, flag)
}

/** Reachable from this machine alone. */
const isLocal = (listen: string): boolean => /^(unix:|127\.\d+\.\d+\.\d+:|localhost:|\[::1\]:)/.test(listen)

const readToken = (file: string): string => {
  let token: string
  try {
    token = readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new MeshError(Code.INVALID_ARGUMENT, `--token-file ${file} cannot be read: ${(error as Error).message}`, {
      cause: error,
    })
  }
  // Tokens travel in a header.
  if (token.length >= TOKEN_CHARACTERS_MIN && /^[\x21-\x7e]+$/.test(token)) return token
  const cure = `put at least ${TOKEN_CHARACTERS_MIN} characters of one line of ASCII there, such as "openssl rand -hex 32" writes`
  throw invalid(`--token-file ${file} holds no usable token; ${cure}`, 'token-file')
}
