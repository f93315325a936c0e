import { readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { UntypedServiceImplementation } from '@grpc/grpc-js'
import { type Logger, pino } from 'pino'
import { MeshError } from '../../shared/errors.ts'
import { onParentLost } from '../../shared/lifeline.ts'
import { COMPUTE_HEAP } from '../../shared/machine.ts'
import { convert } from '../../shared/model/convert.ts'
import { type Model, modelHash, openModel } from '../../shared/model/open.ts'
import { expertParts, gatewayParts } from '../../shared/model/part.ts'
import { probe } from '../../shared/model/probe.ts'
import { built, packageRoot } from '../../shared/root.ts'
import { INFERENCE_SERVICE, loadProto, MEMBERSHIP_SERVICE, serviceOf } from '../../shared/rpc.ts'
import { addHealth, addReflection, closeServer, createServer, listen } from '../../shared/server.ts'
import { type AdminPages, adminPath } from './accept/admin.ts'
import { openDriver } from './accept/batches/driver.ts'
import { openChat } from './accept/chat.ts'
import type { GenerateParts } from './accept/generate.ts'
import { inferenceHandlers } from './accept/grpc.ts'
import { openHttp } from './accept/http.ts'
import { readSamplingDefaults, type Served } from './accept/served.ts'
import { openTokenizer } from './accept/tokenizer.ts'
import { type GatewayConfig, parseGatewayConfig } from './config.ts'
import { openIntake } from './intake.ts'
import { openMetrics } from './metrics.ts'
import { type Fleet, openFleet, spaceOf } from './placement/fleet.ts'
import { openJoin } from './placement/join.ts'
import { type Topology, topologyOf } from './placement/locate.ts'
import { registeredWorkers } from './placement/registry.ts'
import type { Source } from './placement/roster.ts'
import { turnPage } from './placement/turn.ts'
import { connectEngine, type EngineListeners, type EnginePort, type EngineRoom } from './port.ts'
import type { Schedule } from './queue.ts'
import { openStore, type Store } from './store.ts'
import { textStream } from './stream/emit.ts'

/** Requests to the gRPC API are text and ids. */
const GRPC_MESSAGE_BYTES_MAX = 10 << 20
/** Time running requests have to finish after SIGTERM. */
const DRAIN_LIMIT_MS = 10_000
/** What batches may take of the sequences there is room for: a request of somebody who waits finds a place at once. */
const BATCH_SHARE = 0.5
/** Time to give back what still runs; where the queue cannot be reached, its locks run out instead. */
const HAND_OVER_LIMIT_MS = 3_000
/** A conversion that takes longer than this is told of. */
const PROGRESS_INTERVAL_MS = 2_000

/** Before any worker is known. */
const nowhere = topologyOf(0, [], [])

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
  await prepareShards(config, model, log)
  const membership = config.join ? openJoin() : null
  const sources = membership ? [membership.source, ...openRegistry(config, log)] : []
  const { metrics, engine, served, storing, fleet } = await openParts(config, model, { hash, sources, log, onDeath })
  const { contextLength } = engine.room
  if (contextLength < model.config.contextLength)
    log.warn(
      `the KV cache holds ${contextLength} tokens, less than the model's context of ${model.config.contextLength}: raise --kv-memory-mib`,
    )
  await model.close()

  const store = await storing
  const onError = (error: unknown): void => log.error(error)
  const intake = openIntake({ ...store, engine, room: config.maxSequences, onError })
  const parts: GenerateParts = {
    served,
    intake,
    openTextStream: (options) => textStream(served.tokenizer ?? noText, options),
    metrics,
  }
  const { rebalance } = fleet
  const leveller = rebalance && (await store.schedule('rebalance', config.rebalanceIntervalMs, rebalance.run))
  const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'))
  const { token } = config
  const { prompt: archive, patient } = store.archives
  const admin = await adminOf(config, store, leveller)
  const http = openHttp({ ...parts, token, admin, archive, coverage: fleet.missing, version, log })
  const httpAddress = await http.listen({ ...config.listen })
  const grpc = await openGrpc(config, parts, membership?.handlers ?? null)
  const sequences = Math.max(1, Math.floor(config.maxSequences * BATCH_SHARE))
  const driver = openDriver({ ...parts, archive: patient, sequences, onError })
  return {
    http: httpAddress,
    grpc: grpc.address,
    async close() {
      grpc.drain()
      fleet.rest()
      const closed = Promise.all([http.close(), closeServer(grpc.server, DRAIN_LIMIT_MS)])
      await within(DRAIN_LIMIT_MS, closed)
      await driver.close()
      await within(HAND_OVER_LIMIT_MS, Promise.all([leveller?.close(), intake.close()]))
      await store.close()
      await engine.stop()
      await fleet.close()
    },
  }
}

type Beginning = { hash: string; sources: readonly Source[]; log: Logger; onDeath: (error: Error) => void }

/** What takes time to open, side by side. */
const openParts = async (config: GatewayConfig, model: Model, { hash, sources, log, onDeath }: Beginning) => {
  const metrics = openMetrics(model.name)
  let known: Fleet | null = null
  // Its thread opens the gateway's graphs while this one measures and the workers start.
  const starting = startEngineThread(config, hash, config.workers.length + sources.length > 0 ? nowhere : null, {
    onReport: (report) => {
      metrics.report(report)
      known?.rebalance?.count(report)
    },
    onState: (address, state) => {
      log.warn({ worker: address, state }, `worker ${address} is ${state}`)
      known?.judge(address, state)
    },
    onDeath,
  })
  starting.catch(() => {}) // Awaited below, unless the workers fail first.
  const { numericClass: ownClass, refused } = await probe({ device: 'cpu', threads: config.threads })
  const unfit = refused.get(config.precision)
  if (unfit) throw unfit
  const storing = openStore(config, { modelHash: hash, numericClass: ownClass }, log)
  storing.catch(() => {})
  // Meanwhile workers load experts.
  const describing = starting.then(({ room }) => describe(config, model, { hash, ownClass, room }))
  describing.catch(() => {})
  const fleet = await openFleet(config, model, { hash, ownClass, log }, sources)
  known = fleet
  metrics.watch(fleet)
  const engine = await starting
  fleet.onTopology(engine.setTopology)
  return { metrics, engine, served: await describing, storing, fleet }
}

/** Resolves when the work is done, or has had its time. */
const within = (limitMs: number, work: Promise<unknown>): Promise<unknown> =>
  Promise.race([work, new Promise((resolve) => setTimeout(resolve, limitMs).unref())])

/** Workers register where gateways share their requests; a Redis of this gateway's own is known to nobody else. */
const openRegistry = ({ redis }: GatewayConfig, log: Logger): Source[] =>
  redis === null || redis === 'none' ? [] : [registeredWorkers(redis, log)]

/** Only reached by a model without tokenizer, whose requests never ask for text. */
const noText = { decode: () => '' }

const adminOf = async (
  { adminToken }: GatewayConfig,
  { queue }: Store,
  leveller: Schedule | null,
): Promise<AdminPages | null> => {
  if (adminToken === null) return null
  // Few ask for these pages, and every start would read their modules.
  const { boardPage } = await import('./board.ts')
  const path = '/queues'
  const board = boardPage(`${adminPath}${path}`, [queue])
  const pages = [
    ...(board ? [{ path, plugin: board }] : []),
    ...(leveller ? [{ path: '/rebalance', plugin: turnPage(leveller) }] : []),
  ]
  return { token: adminToken, pages }
}

const prepareShards = async (
  { modelDir, cacheDir, precision, workers, join }: GatewayConfig,
  { config, name }: Model,
  log: Logger,
): Promise<void> => {
  const space = spaceOf(config)
  const all = space.layers.map((layer) => ({ layer, experts: [...Array(space.experts).keys()] }))
  const parts = [...gatewayParts(config), ...(workers.length === 0 && !join ? expertParts(all) : [])]
  let toldAt = performance.now()
  const onProgress = (done: number, total: number): void => {
    if (performance.now() - toldAt < PROGRESS_INTERVAL_MS) return
    toldAt = performance.now()
    log.warn(`converting ${name} to ${precision}: ${done} of ${total} parts`)
  }
  await convert({ modelDir, cacheDir, precision, parts }, { onProgress })
}

type Measured = { hash: string; ownClass: string; room: EngineRoom }

const describe = async (
  { modelDir, precision, maxSequences, maxBatchTokens }: GatewayConfig,
  { name, config }: Model,
  measured: Measured,
): Promise<Served> => ({
  name,
  hash: measured.hash,
  precision,
  numericClass: measured.ownClass,
  created: Math.floor(Date.now() / 1000),
  config: { ...config, contextLength: measured.room.contextLength },
  room: { ...measured.room, sequences: Math.min(maxSequences, maxBatchTokens) },
  defaults: await readSamplingDefaults(modelDir),
  tokenizer: await openTokenizer(modelDir),
  chat: await openChat(modelDir),
})

const startEngineThread = async (
  config: GatewayConfig,
  hash: string,
  topology: Topology | null,
  listeners: EngineListeners,
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
    topology,
  }
  const thread = new Worker(built('services/gateway/thread.ts'), { workerData: setup, resourceLimits: COMPUTE_HEAP })
  return connectEngine(thread, listeners)
}

const openGrpc = async (
  { grpcListen, token }: GatewayConfig,
  parts: GenerateParts,
  membership: UntypedServiceImplementation | null,
) => {
  const proto = { ...loadProto('inference'), ...(membership && loadProto('membership')) }
  const server = createServer({ token, maxMessageBytes: GRPC_MESSAGE_BYTES_MAX })
  server.addService(serviceOf(proto, INFERENCE_SERVICE), inferenceHandlers(parts))
  if (membership) server.addService(serviceOf(proto, MEMBERSHIP_SERVICE), membership)
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
  // Whoever starts it may be gone before it has begun; then there is nothing to drain.
  let lost = (): void => process.exit(1)
  onParentLost(() => lost())
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
    lost = end
    process.stdout.write(`listening ${gateway.http}\nlistening grpc ${gateway.grpc}\n`)
  } catch (error) {
    die(error)
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === import.meta.filename) await main()
