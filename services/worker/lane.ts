import { Worker } from 'node:worker_threads'
import { Code, MeshError } from '../../shared/errors.ts'
import { COMPUTE_HEAP } from '../../shared/machine.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import { built } from '../../shared/root.ts'
import { type ComputeSetup, type Done, type FromCompute, type Job, nowUs, type ToCompute } from './job.ts'
import { TurnQueue } from './queue.ts'

/** Jobs in the thread's hands: one runs while the next is already there, which hides the hop between threads. */
const JOBS_UNDER_WAY_MAX = 2

/** Whose turn it is (a stream, say), and until when a job is worth starting. */
export type JobOptions = { owner: object; signal?: AbortSignal; startByUs?: number }

type Waiting = {
  job: Job
  options: JobOptions
  resolve(done: Done): void
  reject(error: MeshError): void
}

/** One compute thread and the jobs that wait for it. onDeath is called when the thread ends by itself. */
export class Lane {
  readonly #thread: Worker
  readonly #bell = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
  readonly #queue = new TurnQueue<object, Waiting>()
  readonly #underWay = new Map<number, Waiting>()
  #lastId = 0

  constructor(setup: Omit<ComputeSetup, 'bell'>, onDeath: (error: Error) => void) {
    const workerData: ComputeSetup = { ...setup, bell: this.#bell }
    this.#thread = new Worker(built('services/worker/compute.ts'), { workerData, resourceLimits: COMPUTE_HEAP })
    this.#thread.on('message', (message: FromCompute) => this.#finish(message))
    this.#thread.on('error', onDeath)
    this.#thread.on('exit', (status) => onDeath(new Error(`a compute thread ended with status ${status}`)))
  }

  /**
   * Rejects with CANCELLED when the signal fires, and DEADLINE_EXCEEDED when startByUs passes, before the job starts.
   * The buffers of a frame are gone afterwards.
   */
  perform(job: Job, options: JobOptions): Promise<Done> {
    return new Promise((resolve, reject) => {
      const { signal } = options
      if (signal?.aborted) return reject(cancelled())
      const abort = (): void => {
        for (const dropped of this.#queue.drop((item) => item === waiting)) dropped.reject(cancelled())
      }
      const waiting: Waiting = {
        job,
        options,
        resolve(done) {
          signal?.removeEventListener('abort', abort)
          resolve(done)
        },
        reject(error) {
          signal?.removeEventListener('abort', abort)
          reject(error)
        },
      }
      signal?.addEventListener('abort', abort, { once: true })
      this.#queue.push(options.owner, waiting)
      this.#advance()
    })
  }

  async close(): Promise<void> {
    this.#thread.removeAllListeners('exit')
    await this.#thread.terminate()
  }

  #advance(): void {
    while (this.#underWay.size < JOBS_UNDER_WAY_MAX) {
      const waiting = this.#queue.take()
      if (!waiting) return
      const { startByUs } = waiting.options
      if (startByUs !== undefined && nowUs() > startByUs) {
        waiting.reject(new MeshError(Code.DEADLINE_EXCEEDED, 'the deadline passed before the frame could start'))
        continue
      }
      this.#lastId += 1
      this.#underWay.set(this.#lastId, waiting)
      this.#post({ id: this.#lastId, job: waiting.job })
    }
  }

  #post({ id, job }: ToCompute): void {
    if (job.kind === 'run') {
      const frame = ownBuffers(job.frame)
      const arrays = [frame.rows, frame.rowIndex, frame.expert, ...(frame.rowScale ? [frame.rowScale] : [])]
      const buffers = new Set(arrays.map((array) => array.buffer as ArrayBuffer))
      this.#thread.postMessage({ id, job: { ...job, frame } } satisfies ToCompute, [...buffers])
    } else this.#thread.postMessage({ id, job } satisfies ToCompute)
    Atomics.add(this.#bell, 0, 1)
    Atomics.notify(this.#bell, 0)
  }

  #finish(message: FromCompute): void {
    const waiting = this.#underWay.get(message.id)
    this.#underWay.delete(message.id)
    if ('done' in message) waiting?.resolve(message.done)
    else waiting?.reject(new MeshError(message.code, message.message))
    this.#advance()
  }
}

const cancelled = (): MeshError => new MeshError(Code.CANCELLED, 'the call was cancelled before it started')

/** Node's pool of small buffers is shared by unrelated messages and cannot be handed to another thread. */
const own = <A extends Float32Array | Uint8Array | Uint32Array>(array: A): A =>
  (array.buffer.byteLength <= Buffer.poolSize
    ? new (array.constructor as typeof Uint8Array)(array as Uint8Array)
    : array) as A

const ownBuffers = (frame: ExpertFrame): ExpertFrame => ({
  ...frame,
  // A Buffer's copy constructor would take it from the same pool again.
  rows: own(
    frame.rows instanceof Buffer
      ? new Uint8Array(frame.rows.buffer, frame.rows.byteOffset, frame.rows.length)
      : frame.rows,
  ),
  rowScale: frame.rowScale && own(frame.rowScale),
  rowIndex: own(frame.rowIndex),
  expert: own(frame.expert),
})
