import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { invalid } from '../../shared/errors.ts'
import { coresAllowed } from '../../shared/machine.ts'
import type { Precision } from '../../shared/model/config.ts'

export type GatewayConfig = Readonly<{
  modelDir: string
  cacheDir: string
  precision: Precision
  listen: Address
  grpcListen: Address
  /** Expert workers; none: the experts live in the gateway. */
  workers: readonly string[]
  chunk: number
  maxSequences: number
  maxBatchTokens: number
  queueLimit: number
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

const positive = (text: string): number => {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('It must be a whole number of at least 1.')
  return value
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
      'Serve a model over HTTP (OpenAI-compatible) and gRPC. Attention, routers and shared experts run here; routed experts on the workers named with --worker, or here when there is none.',
    )
    .requiredOption('--model <dir>', 'Hugging Face folder: config.json, safetensors, tokenizer.json')
    .option('--worker <address>', 'an expert worker, HOST:PORT or unix:PATH (repeat for each)', append, [])
    .addOption(
      new Option('--precision <kind>', 'fp32 matches transformers token for token, int8 is faster')
        .choices(['fp32', 'int8'])
        .default('int8'),
    )
    .option('--listen <host:port>', 'HTTP', address, { host: '127.0.0.1', port: 8080 })
    .option('--grpc-listen <host:port>', 'gRPC', address, { host: '127.0.0.1', port: 0 })
    .option('--chunk <tokens>', 'prompt tokens run in one step, at most', positive, 512)
    .option('--max-sequences <n>', 'sequences generated at a time', positive, 64)
    .option('--max-batch-tokens <n>', 'token rows in one step', positive, 1024)
    .option('--queue-limit <n>', 'requests that may wait; more get 429', positive, 1024)
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

/** Arguments (without node and script) and environment → checked, frozen values. Exits through commander on a wrong flag. */
export const parseGatewayConfig = (argv: readonly string[], env: NodeJS.ProcessEnv = process.env): GatewayConfig => {
  const o = gatewayCommand()
    .parse([...argv], { from: 'user' })
    .opts()
  const token = o.tokenFile ? readToken(o.tokenFile) : null
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
    chunk: o.chunk,
    maxSequences: o.maxSequences,
    maxBatchTokens: o.maxBatchTokens,
    queueLimit: o.queueLimit,
    kvMemoryBytes: o.kvMemoryMib ? o.kvMemoryMib * MIB : null,
    threads: o.threads ?? coresAllowed(),
    layerTimeoutMs: o.layerTimeoutMs,
    startTimeoutMs: o.startTimeoutMs,
    frameBytesMax: o.maxFrameMib * MIB,
    token,
  })
}

const readToken = (file: string): string => {
  const token = readFileSync(file, 'utf8').trim()
  if (token === '') throw invalid(`--token-file ${file} is empty: put one line with a long random word into it`)
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
