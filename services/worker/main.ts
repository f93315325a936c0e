import { realpathSync } from 'node:fs'
import { type Logger, pino } from 'pino'
import { MeshError } from '../../shared/errors.ts'
import { FRAME_HEAD_BYTES } from '../../shared/frame.ts'
import { onParentLost } from '../../shared/lifeline.ts'
import { coresQuota } from '../../shared/machine.ts'
import { probe } from '../../shared/model/probe.ts'
import { expertRate } from '../../shared/model/rate.ts'
import { EXPERT_SERVICE, expertService, loadProto } from '../../shared/rpc.ts'
import { addHealth, addReflection, closeServer, createServer, listen } from '../../shared/server.ts'
import { parseWorkerConfig, type WorkerConfig } from './config.ts'
import { createForward } from './forward.ts'
import { Hold } from './hold.ts'
import { joinGateway } from './join.ts'
import { Lane } from './lane.ts'
import { precisionsOf, visibleModels } from './models.ts'
import { expertHandlers, holdingsOf } from './service.ts'
import { openWatch } from './watch.ts'

/** Longest wait for accepted frames at the end. */
const ANSWER_LIMIT_MS = 10_000
/** Streams of gateways never end by themselves; they are broken after this. */
const CLOSE_LIMIT_MS = 500

export type RunningWorker = {
  /** What a client dials. */
  address: string
  /**
   * Says that it drains, goes on answering until no gateway needs it or --drain-timeout-ms have passed, then ends: frames that
   * come later are refused, accepted ones answered.
   */
  close(): Promise<void>
}

/**
 * Measures the numeric class, hashes the models, starts the compute threads and listens.
 * @param onDeath called when a compute thread ends by itself: the process is of no use any more.
 * @throws MeshError when there is nothing to serve or the device or address cannot be had.
 */
export const runWorker = async (
  config: WorkerConfig,
  { log, onDeath }: { log: Logger; onDeath: (error: Error) => void },
): Promise<RunningWorker> => {
  const { cacheDir, device, computeThreads, threadsPerLane: threads } = config
  if (config.exposed)
    log.warn({ listen: config.listen }, 'INSECURE: anyone who reaches this address can use this worker')
  const { numericClass, refused } = await probe({ device, threads })
  for (const [precision, { message }] of refused) log.warn({ precision, reason: message }, 'precision left out')
  const onRefused = (folder: string, error: MeshError): void =>
    log.warn({ folder, reason: error.message }, 'model left out')
  const precisions = precisionsOf(device).filter((precision) => !refused.has(precision))
  const models = await visibleModels(config.modelFolders, { cacheDir, precisions, onRefused })
  const lanes = Array.from({ length: computeThreads }, () => new Lane({ cacheDir, device, threads }, onDeath))
  const needed = (model: string): boolean => watch.names(model)
  const hold = new Hold({ models, lanes, cacheDir, memoryLimitBytes: config.memoryLimitBytes, needed, log })
  const forward = createForward(hold, lanes, config)
  const proto = loadProto('expert')
  const server = createServer({ token: config.token, maxMessageBytes: config.maxFrameBytes + FRAME_HEAD_BYTES })
  let draining = false
  const quota = device === 'cpu' ? Math.min(1, coresQuota() / (computeThreads * threads)) : 1
  const rowsPerSecond = Math.round(quota * computeThreads * (await expertRate({ device, threads })))
  const facts = { device, numericClass, threads: computeThreads * threads, rowsPerSecond }
  const holdings = (model: string) => holdingsOf(hold, facts, model, draining)
  const watch = openWatch(holdings)
  server.addService(expertService(proto), expertHandlers({ hold, forward, watch, holdings }))
  addReflection(server, proto)
  const setServing = addHealth(server, EXPERT_SERVICE)
  const address = await listen(server, config.listen)
  setServing(true)
  for (const { dir, precision, hash } of models) log.info({ dir, precision, hash }, 'model')
  const advertised = config.advertise ?? address
  const leave: (() => void | Promise<void>)[] = config.gateways.map((gateway) =>
    joinGateway({ gateway, address: advertised, token: config.token, log }),
  )
  if (config.redis !== null) {
    // A client of Redis is much to read for workers that need none.
    const { registerWorker } = await import('./register.ts')
    leave.push(registerWorker(config.redis, advertised, log))
  }
  log.info({ address, device, threads: facts.threads, numericClass, rowsPerSecond }, 'listening')
  return {
    address,
    close: async () => {
      setServing(false)
      draining = true
      await Promise.all(leave.map((each) => each()))
      await within(watch.unwatched(), config.drainTimeoutMs)
      watch.close()
      hold.close()
      await within(forward.drain(), ANSWER_LIMIT_MS)
      await closeServer(server, CLOSE_LIMIT_MS)
      await Promise.all(lanes.map((lane) => lane.close()))
    },
  }
}

const within = async (work: Promise<void>, limitMs: number): Promise<void> => {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs)
  })
  await Promise.race([work, limit])
  clearTimeout(timer)
}

/** Runs as a process: one line "listening ADDRESS" on stdout for whoever started it, the log on stderr. */
const main = async (): Promise<void> => {
  const log = pino({ name: 'worker' }, pino.destination({ dest: 2, sync: true }))
  const die = (error: unknown): void => {
    log.fatal(MeshError.from(error).message)
    process.exit(1)
  }
  try {
    const worker = await runWorker(parseWorkerConfig(process.argv.slice(2)), { log, onDeath: die })
    let ending = false
    const end = (): void => {
      if (ending) return
      ending = true
      process.once('SIGTERM', () => process.exit(1))
      process.once('SIGINT', () => process.exit(1))
      log.info('draining')
      worker.close().then(() => process.exit(0), die)
    }
    process.once('SIGTERM', end)
    process.once('SIGINT', end)
    onParentLost(end)
    process.stdout.write(`listening ${worker.address}\n`)
  } catch (error) {
    die(error)
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === import.meta.filename) await main()
