import { readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { type Logger, pino } from 'pino'
import { MeshError } from '../../shared/errors.ts'
import { onParentLost } from '../../shared/lifeline.ts'
import { convert } from '../../shared/model/convert.ts'
import { type Model, modelHash, openModel } from '../../shared/model/open.ts'
import { expertParts, gatewayParts } from '../../shared/model/part.ts'
import { numericClass } from '../../shared/model/probe.ts'
import { built, packageRoot } from '../../shared/root.ts'
import {
  addHealth,
  addReflection,
  closeServer,
  createServer,
  INFERENCE_SERVICE,
  listen,
  loadProto,
  serviceOf,
} from '../../shared/rpc.ts'
import { openChat } from './accept/chat.ts'
import type { GenerateParts } from './accept/generate.ts'
import { inferenceHandlers } from './accept/grpc.ts'
import { openHttp } from './accept/http.ts'
import { readSamplingDefaults, type Served } from './accept/served.ts'
import { openTokenizer } from './accept/tokenizer.ts'
import { type GatewayConfig, parseGatewayConfig } from './config.ts'
import { openMetrics } from './metrics.ts'
import { type Fleet, gather, spaceOf } from './placement/fleet.ts'
import { connectEngine, type EnginePort } from './port.ts'
import { feed, openQueue } from './queue.ts'
import { textStream } from './stream/emit.ts'

/** Requests to the gRPC API are text and ids. */
const GRPC_MESSAGE_BYTES_MAX = 10 << 20
/** Time running requests have to finish after SIGTERM. */
const DRAIN_LIMIT_MS = 10_000
/** A conversion that takes longer than this is told of. */
const PROGRESS_INTERVAL_MS = 2_000

export type RunningGateway = { http: string; grpc: string; close(): Promise<void> }

/**
 * Puts the gateway together: model → shards → workers → engine thread → API.
 * @throws MeshError when the model, a worker or an address cannot be had.
 */
export const runGateway = async (
  config: GatewayConfig,
  log: Logger,
  onDeath: (error: Error) => void,
): Promise<RunningGateway> => {
  const model = await openModel(config.modelDir)
  const hash = await modelHash(model, config.precision, config.cacheDir)
  const ownClass = await numericClass({ device: 'cpu', threads: config.threads })
  await prepareShards(config, model, log)
  const fleet = await gather(config, model, { hash, ownClass, log })
  const metrics = openMetrics(model.name)
  const engine = await startEngineThread(config, hash, fleet, metrics, onDeath)
  const { contextLength } = engine
  if (contextLength < model.config.contextLength)
    log.warn(
      `the KV cache holds ${contextLength} tokens, less than the model's context of ${model.config.contextLength}: raise --kv-memory-mib`,
    )
  const served = await describe(config, model, { hash, ownClass, contextLength })
  await model.close()

  const queue = openQueue(config.queueLimit)
  const parts: GenerateParts = {
    served,
    intake: feed(engine, queue, config.maxSequences),
    openTextStream: (options) => textStream(served.tokenizer ?? noText, options),
    metrics,
  }
  const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'))
  const { token } = config
  const http = openHttp({ ...parts, token, coverage: fleet.missing, version, log })
  const httpAddress = await http.listen({ ...config.listen })
  const grpc = await openGrpc(config, parts)
  return {
    http: httpAddress,
    grpc: grpc.address,
    async close() {
      grpc.drain()
      const closed = Promise.all([http.close(), closeServer(grpc.server, DRAIN_LIMIT_MS)])
      await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, DRAIN_LIMIT_MS).unref())])
      await engine.stop()
      fleet.close()
    },
  }
}

/** Only reached by a model without tokenizer, whose requests never ask for text. */
const noText = { decode: () => '' }

const prepareShards = async (
  { modelDir, cacheDir, precision, workers }: GatewayConfig,
  { config, name }: Model,
  log: Logger,
): Promise<void> => {
  const space = spaceOf(config)
  const all = space.layers.map((layer) => ({ layer, experts: [...Array(space.experts).keys()] }))
  const parts = [...gatewayParts(config), ...(workers.length === 0 ? expertParts(all) : [])]
  let toldAt = performance.now()
  const onProgress = (done: number, total: number): void => {
    if (performance.now() - toldAt < PROGRESS_INTERVAL_MS) return
    toldAt = performance.now()
    log.warn(`converting ${name} to ${precision}: ${done} of ${total} parts`)
  }
  await convert({ modelDir, cacheDir, precision, parts }, { onProgress })
}

type Measured = { hash: string; ownClass: string; contextLength: number }

const describe = async (
  { modelDir, precision }: GatewayConfig,
  { name, config }: Model,
  measured: Measured,
): Promise<Served> => ({
  name,
  hash: measured.hash,
  precision,
  numericClass: measured.ownClass,
  created: Math.floor(Date.now() / 1000),
  config: { ...config, contextLength: measured.contextLength },
  defaults: await readSamplingDefaults(modelDir),
  tokenizer: await openTokenizer(modelDir),
  chat: await openChat(modelDir),
})

const startEngineThread = async (
  config: GatewayConfig,
  hash: string,
  fleet: Fleet,
  metrics: ReturnType<typeof openMetrics>,
  onDeath: (error: Error) => void,
): Promise<EnginePort> => {
  const { modelDir, cacheDir, precision, threads, kvMemoryBytes, maxSequences, token } = config
  const setup = {
    modelDir,
    cacheDir,
    precision,
    threads,
    kvMemoryBytes,
    maxSequences,
    token,
    modelHash: hash,
    limits: config,
    dispatch: { timeoutMs: config.layerTimeoutMs, frameBytesMax: config.frameBytesMax },
    topology: fleet.topology,
  }
  return connectEngine(new Worker(built('services/gateway/thread.ts'), { workerData: setup }), {
    onReport: (report) => metrics.report(report, fleet.holder),
    onDeath,
  })
}

const openGrpc = async ({ grpcListen, token }: GatewayConfig, parts: GenerateParts) => {
  const proto = loadProto('inference')
  const server = createServer({ token, maxMessageBytes: GRPC_MESSAGE_BYTES_MAX })
  server.addService(serviceOf(proto, INFERENCE_SERVICE), inferenceHandlers(parts))
  addReflection(server, proto)
  const setServing = addHealth(server, INFERENCE_SERVICE)
  const { host, port } = grpcListen
  const address = await listen(server, host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`)
  setServing(true)
  return { server, address, drain: () => setServing(false) }
}

/** Runs as a process: the addresses on stdout for whoever started it, the log on stderr. */
const main = async (): Promise<void> => {
  const log = pino({ name: 'gateway' }, pino.destination({ dest: 2, sync: true }))
  const die = (error: unknown): void => {
    const { message, cause } = MeshError.from(error)
    log.fatal({ cause }, message)
    process.exit(1)
  }
  try {
    const gateway = await runGateway(parseGatewayConfig(process.argv.slice(2)), log, die)
    const end = (): void => {
      process.once('SIGTERM', () => process.exit(1))
      process.once('SIGINT', () => process.exit(1))
      log.info('draining')
      gateway.close().then(() => process.exit(0), die)
    }
    process.once('SIGTERM', end)
    process.once('SIGINT', end)
    onParentLost(end)
    process.stdout.write(`listening ${gateway.http}\nlistening grpc ${gateway.grpc}\n`)
  } catch (error) {
    die(error)
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === import.meta.filename) await main()
