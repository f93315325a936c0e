import { Queue as BullQueue, Worker as BullWorker, WaitingError } from 'bullmq'
import { type RedisClient, redisError } from '../../shared/redis.ts'
import { packRequest, unpackRequest } from './journal/record.ts'
import type { Job, Queue, Schedule, Verdict } from './queue.ts'

export type { BullQueue }

/** A gateway that is gone is noticed after at most the first and twice the second. */
const LOCK_MS = 3_000
const STALLED_INTERVAL_MS = 1_000
/** How soon what failed for want of Redis is tried again. */
const RETRY_MS = 250
/** An idle gateway asks for jobs this often, in seconds, should a wake-up have been lost. */
const IDLE_SECONDS = 2
const PREFIX = 'expertmesh'

export type SharedOptions = {
  /** Fails at once while Redis is away. */
  prompt: RedisClient
  /** Waits until it is back. */
  patient: RedisClient
  /** Engines that take jobs from one queue give the same bits: it names their model and their numeric class. */
  name: string
  onError(error: Error): void
}

type Stored = { request: ReturnType<typeof packRequest>; deadlineAt: number | null }

const toBull = ({ request, rank, deadlineAt }: Job) => ({
  name: request.model,
  data: { request: packRequest(request), deadlineAt },
  opts: { jobId: request.id, priority: rank, removeOnComplete: true, removeOnFail: true },
})

/** The queue that all gateways of a model share, in Redis. */
export const openSharedQueue = ({ prompt, patient, name, onError }: SharedOptions): Queue => {
  const options = { prefix: PREFIX }
  const queue = new BullQueue<Stored>(name, { ...options, connection: prompt })
  queue.on('error', onError)
  let worker: BullWorker<Stored> | null = null

  const serve = (room: number, run: (job: Job) => Promise<Verdict>): void => {
    if (room === 0) return
    worker = new BullWorker<Stored>(
      name,
      async (job, token) => {
        const { request, deadlineAt } = job.data
        const verdict = await run({ request: unpackRequest(request), deadlineAt, rank: job.priority })
        if (verdict === 'done') return
        await job.moveToWait(token)
        throw new WaitingError()
      },
      {
        ...options,
        connection: patient,
        concurrency: room,
        lockDuration: LOCK_MS,
        stalledInterval: STALLED_INTERVAL_MS,
        // A gateway's death is not its requests' fault: fruitless attempts are counted in the journal.
        maxStalledCount: Number.MAX_SAFE_INTEGER,
        drainDelay: IDLE_SECONDS,
        runRetryDelay: RETRY_MS,
      },
    )
    worker.on('error', onError)
  }

  return {
    async add(jobs) {
      if (jobs.length === 0) return
      try {
        await queue.addBulk(jobs.map(toBull))
      } catch (error) {
        throw redisError(error)
      }
    },
    serve,
    async remove(ids) {
      for (const id of ids) await queue.remove(id).catch(() => {})
    },
    async has(id) {
      try {
        return (await prompt.exists(queue.toKey(id))) === 1
      } catch (error) {
        throw redisError(error)
      }
    },
    async position(id) {
      try {
        return await prompt.zrank(queue.toKey('prioritized'), id)
      } catch (error) {
        throw redisError(error)
      }
    },
    async close() {
      await worker?.close()
      await queue.close()
    },
    bull: queue,
  }
}

/** The schedule of all gateways of a name, in Redis: each turn is one job, and at most one is under way anywhere; everyMs 0: a turn only when asked for. */
export const openSharedSchedule = async (
  { prompt, patient, name, onError }: SharedOptions,
  everyMs: number,
  run: () => Promise<void>,
): Promise<Schedule> => {
  const options = { prefix: PREFIX }
  const queue = new BullQueue(name, { ...options, connection: prompt })
  queue.on('error', onError)
  await queue.setGlobalConcurrency(1)
  const opts = { removeOnComplete: true, removeOnFail: true }
  if (everyMs > 0) await queue.upsertJobScheduler('turn', { every: everyMs }, { opts })
  const worker = new BullWorker(name, run, {
    ...options,
    connection: patient,
    lockDuration: LOCK_MS,
    stalledInterval: STALLED_INTERVAL_MS,
    runRetryDelay: RETRY_MS,
  })
  worker.on('error', onError)
  return {
    async now() {
      try {
        await queue.add('asked', null, opts)
      } catch (error) {
        throw redisError(error)
      }
    },
    async close() {
      await worker.close()
      await queue.close()
    },
  }
}
