import { readFileSync } from 'node:fs'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { Code, invalid, MeshError } from '../../shared/errors.ts'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'

/** What a person may choose about a cluster on this machine; what is left out, the services decide. */
export type ClusterOptions = {
  model: string
  workers: number
  replicas?: number
  precision?: Precision
  device?: string
  threads?: number
  cache?: string
  chunk?: number
  kvMemoryMib?: number
  maxSequences?: number
  queueLimit?: number
  redis?: string
  listen?: string
  grpcListen?: string
  tokenFile?: string
  insecure?: boolean
}

/** More processes than this on one machine are a mistake in the command line. */
const WORKERS_MAX = 64

/** A commander parser for whole numbers in [min, max]. */
export const whole =
  (min: number, max = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
    if (value >= min && value <= max) return value
    const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`
    throw new InvalidArgumentError(`It must be a whole number ${range}.`)
  }

/** A commander parser for numbers in [min, max]. */
export const decimal =
  (min: number, max: number) =>
  (text: string): number => {
    const value = text.trim() === '' ? Number.NaN : Number(text)
    if (value >= min && value <= max) return value
    throw new InvalidArgumentError(`It must be a number from ${min} to ${max}.`)
  }

/** The token in the file that --token-file names. @throws MeshError NOT_FOUND. */
export const readToken = (file: string | undefined): string | null => {
  if (file === undefined) return null
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (cause) {
    throw new MeshError(Code.NOT_FOUND, `cannot read the token file ${file}`, { cause })
  }
}

/** Adds the flags every in-machine cluster has. */
export const addClusterFlags = (command: Command): Command =>
  command
    .requiredOption('--model <dir>', 'Hugging Face model folder')
    .option('--workers <n>', 'expert worker processes; 0 keeps the experts in the gateway', whole(0, WORKERS_MAX), 2)
    .option('--replicas <n>', 'workers that hold each expert: with 2, losing one costs no time', whole(1, WORKERS_MAX))
    .addOption(
      new Option('--precision <kind>', 'int4 for least memory, fp32 for exactness (default: int8)').choices(PRECISIONS),
    )
    .option('--device <name>', "the workers' device: cpu, webgpu or cuda")
    .option('--threads <n>', 'compute threads of each worker (default: the cores shared out)', whole(1))
    .option('--cache <dir>', 'where converted weights are kept')
    .option('--chunk <n>', 'most prompt tokens in one step', whole(1))
    .option('--kv-memory-mib <n>', 'memory for keys and values', whole(1))
    .option('--max-sequences <n>', 'most sequences generated at once', whole(1))
    .option('--queue-limit <n>', 'most requests waiting', whole(1))
    .option(
      '--redis <address>',
      'Redis that keeps requests, or none (default: one of this cluster alone, if installed)',
    )

/** @throws MeshError INVALID_ARGUMENT for choices that contradict each other. */
export const checkCluster = (options: Pick<ClusterOptions, 'workers' | 'replicas' | 'device'>): void => {
  const { workers, replicas = 1, device = 'cpu' } = options
  if (replicas > Math.max(1, workers))
    throw invalid(`--replicas ${replicas} needs as many workers, and --workers is ${workers}`)
  if (workers > 0 || device === 'cpu') return
  throw invalid(`--workers 0 runs the experts in the gateway, on the CPU: for --device ${device} ask for at least one`)
}

const flag = (name: string, value: string | number | boolean | undefined): string[] => {
  if (value === undefined || value === false) return []
  return value === true ? [`--${name}`] : [`--${name}`, String(value)]
}

/** Compute threads of each of so many that share the cores. */
export const coresEach = (cores: number, sharers: number): number => Math.max(1, Math.floor(cores / sharers))

/** Flags of one of the workers, which share the cores. */
export const workerFlags = (options: ClusterOptions, address: string, cores: number): string[] => [
  ...flag('listen', address),
  ...flag('models', options.model),
  ...flag('cache', options.cache),
  ...flag('device', options.device),
  ...flag('threads', options.threads ?? coresEach(cores, options.workers)),
]

/** Flags of the gateway that uses the workers at these addresses. It takes all cores: it and they compute in turns for the most part. */
export const gatewayFlags = (options: ClusterOptions, workers: readonly string[]): string[] => [
  ...flag('model', options.model),
  ...flag('listen', options.listen),
  ...flag('grpc-listen', options.grpcListen),
  ...workers.flatMap((address) => flag('worker', address)),
  ...flag('replicas', options.replicas),
  ...flag('precision', options.precision),
  ...flag('cache', options.cache),
  ...flag('chunk', options.chunk),
  ...flag('kv-memory-mib', options.kvMemoryMib),
  ...flag('max-sequences', options.maxSequences),
  ...flag('queue-limit', options.queueLimit),
  ...flag('redis', options.redis),
  ...flag('token-file', options.tokenFile),
  ...flag('insecure', options.insecure),
]
