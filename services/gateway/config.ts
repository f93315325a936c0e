import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { invalid } from '../../shared/errors.ts'
import { coresAllowed } from '../../shared/machine.ts'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { RULES_HELP, type Rules, readRules } from './placement/rules.ts'

export type GatewayConfig = Readonly<{
  modelDir: string
  cacheDir: string
  precision: Precision
  listen: Address
  grpcListen: Address
  /** Expert workers; none: the experts live in the gateway. */
  workers: readonly string[]
  /** Workers may register themselves over gRPC. */
  join: boolean
  /** Live copies wanted of every expert, on different workers. */
  replicas: number
  /** 0: never. */
  rebalanceIntervalMs: number
  /** What a person wants of the placement. */
  placementRules: Rules
  chunk: number
  maxSequences: number
  maxBatchTokens: number
  queueLimit: number
  /** Address of the Redis that keeps requests; 'none': this process does; null: a Redis of this gateway's own, where there is one. */
  redis: string | null
  /** Where its program is looked for. */
  path: string
  /** How long an ended request can still be read. */
  keepMs: number
  /** Token of the operator's pages; null: there are none. */
  adminToken: string | null
  /** null: by the model and the memory allowed. */
  kvMemoryBytes: number | null
  threads: number
  layerTimeoutMs: number
  startTimeoutMs: number
  frameBytesMax: number
  token: string | null
}>

export type Address = Readonly<{ host: string; port: number }>

const MIB = 1 << 20
const MINUTE_MS = 60_000

const positive = (text: string): number => {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('It must be a whole number of at least 1.')
  return value
}

const seconds = (text: string): number => {
  const value = Number(text)
  if (text.trim() !== '' && value >= 0 && Number.isFinite(value)) return value
  throw new InvalidArgumentError('It must be a number of seconds, at least 0.')
}

const address = (text: string): Address => {
  const match = /^(?<host>\[[^\]]+\]|[^:]+):(?<port>\d+)$/.exec(text)
  const port = Number(match?.groups?.port)
  if (!match?.groups || port > 65_535)
    throw new InvalidArgumentError('It must be HOST:PORT; port 0 takes any free one.')
  return { host: match.groups.host.replace(/^\[|\]$/g, ''), port }
}

const append = (text: string, all: string[]): string[] => [...all, text]

export const gatewayCommand = (): Command =>
  new Command('gateway')
    .description(
      'Serve a model over HTTP (OpenAI-compatible) and gRPC. Attention, routers and shared experts run here; routed experts on the workers named with --worker, or here when there is none. With --join, workers register themselves and come and go as they like; the gateway is ready when they hold every expert.',
    )
    .requiredOption('--model <dir>', 'Hugging Face folder: config.json, safetensors, tokenizer.json')
    .option('--worker <address>', 'an expert worker, HOST:PORT or unix:PATH (repeat for each)', append, [])
    .option(
      '--join',
      'let workers register themselves: at the gRPC address (worker --gateway HOST:PORT), or in the Redis of --redis (worker --redis URL)',
      false,
    )
    .option(
      '--replicas <n>',
      'workers that hold each expert, where there is memory: with 2, losing any one worker costs no time',
      positive,
      1,
    )
    .option(
      '--rebalance-interval-s <n>',
      'how often experts are moved and copied to where they are used, if that is worth it; 0: only when asked with POST /admin/rebalance',
      seconds,
      60,
    )
    .option('--placement <file>', 'JSON file of rules: which workers hold which experts (see below)')
    .addOption(
      new Option(
        '--precision <kind>',
        'fp32 matches transformers token for token; int8 is faster; int4 takes least memory and is fastest for one or two streams, with answers a little worse',
      )
        .choices(PRECISIONS)
        .default('int8'),
    )
    .option('--listen <host:port>', 'HTTP', address, { host: '127.0.0.1', port: 8080 })
    .option('--grpc-listen <host:port>', 'gRPC', address, { host: '127.0.0.1', port: 0 })
    .option('--chunk <tokens>', 'prompt tokens run in one step, at most', positive, 512)
    .option('--max-sequences <n>', 'sequences generated at a time', positive, 64)
    .option('--max-batch-tokens <n>', 'token rows in one step', positive, 1024)
    .option('--queue-limit <n>', 'requests that may wait, at all gateways together; more get 429', positive, 1024)
    .option(
      '--redis <address>',
      'Redis that keeps requests and shares them among gateways: redis://HOST:PORT, unix:PATH, or none to keep them in this process (default: $REDIS_URL, else a redis-server on the PATH is started for this gateway alone)',
    )
    .option('--keep-minutes <n>', 'how long an ended request can still be read', positive, 10)
    .option(
      '--admin-token-file <file>',
      'file with the token that opens /admin: GET /admin/queues, POST /admin/rebalance; without it there is no such page',
    )
    .option(
      '--kv-memory-mib <n>',
      'memory of the KV cache (default: what --max-sequences of full length need, at most a quarter of what this process may use)',
      positive,
    )
    .option('--threads <n>', 'threads inside one operator (default: the cores this process may use)', positive)
    .option('--layer-timeout-ms <n>', 'longest wait for one layer of experts', positive, 30_000)
    .option('--start-timeout-ms <n>', 'longest wait for the workers at start', positive, 600_000)
    .option('--max-frame-mib <n>', 'largest message to or from a worker', positive, 64)
    .option('--cache <dir>', 'where converted weights are kept (default: $EXPERTMESH_CACHE or ~/.cache/expertmesh)')
    .option('--token-file <file>', 'file with the token that clients must send and workers expect')
    .option('--insecure', 'allow listening beyond this machine without a token', false)
    .addHelpText('after', RULES_HELP)

/** Arguments (without node and script) and environment → checked, frozen values. Exits through commander on a wrong flag. */
export const parseGatewayConfig = (argv: readonly string[], env: NodeJS.ProcessEnv = process.env): GatewayConfig => {
  const o = gatewayCommand()
    .parse([...argv], { from: 'user' })
    .opts()
  const token = o.tokenFile ? readToken(o.tokenFile, '--token-file') : null
  for (const listen of [o.listen, o.grpcListen] as Address[]) checkExposure(listen, token, o.insecure)
  if (o.chunk > o.maxBatchTokens)
    throw invalid(
      `--chunk ${o.chunk} is more than --max-batch-tokens ${o.maxBatchTokens}: lower one or raise the other`,
    )
  return Object.freeze({
    modelDir: resolve(o.model),
    cacheDir: resolve(o.cache ?? env.EXPERTMESH_CACHE ?? join(homedir(), '.cache', 'expertmesh')),
    precision: o.precision,
    listen: o.listen,
    grpcListen: o.grpcListen,
    workers: o.worker,
    join: o.join,
    replicas: o.replicas,
    rebalanceIntervalMs: o.rebalanceIntervalS * 1000,
    placementRules: o.placement ? readRules(o.placement) : [],
    chunk: o.chunk,
    maxSequences: o.maxSequences,
    maxBatchTokens: o.maxBatchTokens,
    queueLimit: o.queueLimit,
    redis: o.redis ?? (env.REDIS_URL || null),
    path: env.PATH ?? '',
    keepMs: o.keepMinutes * MINUTE_MS,
    adminToken: o.adminTokenFile ? readToken(o.adminTokenFile, '--admin-token-file') : null,
    kvMemoryBytes: o.kvMemoryMib ? o.kvMemoryMib * MIB : null,
    threads: o.threads ?? coresAllowed(),
    layerTimeoutMs: o.layerTimeoutMs,
    startTimeoutMs: o.startTimeoutMs,
    frameBytesMax: o.maxFrameMib * MIB,
    token,
  })
}

const readToken = (file: string, flag: string): string => {
  const token = readFileSync(file, 'utf8').trim()
  if (token === '') throw invalid(`${flag} ${file} is empty: put one line with a long random word into it`)
  return token
}

const checkExposure = ({ host, port }: Address, token: string | null, insecure: boolean): void => {
  const local = host === 'localhost' || host === '::1' || host.startsWith('127.')
  if (local || token !== null) return
  if (!insecure)
    throw invalid(
      `listening on ${host}:${port} without a token lets anyone on the network in: give --token-file, or --insecure if that is meant`,
    )
  process.stderr.write(`WARNING: ${host}:${port} is open to everyone who can reach this machine (--insecure)\n`)
}
