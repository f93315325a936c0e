import { setMaxListeners } from 'node:events'
import { type Client, credentials, type Metadata, makeGenericClientConstructor } from '@grpc/grpc-js'
import { socketOf } from '../../../shared/address.ts'
import { Code, MeshError } from '../../../shared/errors.ts'
import {
  callOf,
  decodeResponse,
  encodeRequest,
  type ForwardRequest,
  type ForwardResponse,
  FRAME_HEAD_BYTES,
  frameBytes,
  replyBytes,
} from '../../../shared/frame.ts'
import type { ExpertFrame } from '../../../shared/model/experts.ts'
import { finiteRows, type TokenRows } from '../../../shared/model/rows.ts'
import { channelOptions, EXPERT_SERVICE, expertService, loadProto, tokenMetadata } from '../../../shared/rpc.ts'
import { SHM_METADATA } from '../../../shared/shm.ts'
import { bytesOf } from '../../../shared/wire.ts'
import { Outbox, type Stream } from './outbox.ts'
import { Regions } from './regions.ts'
import { scratch } from './scratch.ts'

/** Calls without an answer per worker; more mean that the worker has stopped. */
const OUTSTANDING_CALLS_MAX = 4096

export type ChannelOptions = { address: string; token: string | null; maxFrameBytes: number }

/** Rows [A,H] of the frame's kind, unweighted, in the order of the assignments. */
export type ExpertReply = TokenRows & {
  finite: boolean
  computeUs: number
  waitUs: number
  busyUs: number
  /** Bytes of the answer on the wire. */
  bytes: number
}

/** Both promises may be left alone: a rejection nobody awaits is not an unhandled one. */
export type Sent = {
  /** The last byte has left this process, so a kernel may block the thread. Also settles when the stream is lost. */
  written: Promise<void>
  /** Rejects with the worker's status; UNAVAILABLE when the stream was lost, DATA_LOSS for a bad answer. */
  reply: Promise<ExpertReply>
}

/** deadlineMs 0 is no limit. The signal calls a frame off: CANCELLED. */
export type SendOptions = { deadlineMs: number; signal?: AbortSignal }

type Outstanding = {
  /** Values and scales due. */
  due: { values: number; scales: number }
  resolve(reply: ExpertReply): void
  reject(error: MeshError): void
}
type ForwardClient = Client & { Forward(metadata: Metadata): Stream }

/** Dials when the first frame is sent, and again after a loss. */
export const connectWorker = (options: ChannelOptions): WorkerChannel => new WorkerChannel(options)

/** One bidi stream to one worker. */
export class WorkerChannel {
  readonly address: string
  readonly #client: ForwardClient
  readonly #metadata: Metadata
  readonly #maxFrameBytes: number
  readonly #outstanding = new Map<number, Outstanding>()
  #outbox: Outbox | null = null
  /** Memory shared with the worker, once it has said which. */
  #regions: Regions | null = null
  #lastCall = 0
  #closed = false

  constructor({ address, token, maxFrameBytes }: ChannelOptions) {
    const Constructor = makeGenericClientConstructor(expertService(loadProto('expert')), EXPERT_SERVICE)
    const limits = channelOptions(maxFrameBytes + FRAME_HEAD_BYTES)
    this.address = address
    this.#client = new Constructor(address, credentials.createInsecure(), limits) as unknown as ForwardClient
    this.#metadata = tokenMetadata(token)
    this.#maxFrameBytes = maxFrameBytes
  }

  /** Token rows of experts that the worker holds; frame and answer must each fit maxFrameBytes. */
  send(frame: ExpertFrame, model: string, options: SendOptions): Sent {
    const refusal = this.#refusal(frame, options.signal)
    if (refusal) return { written: Promise.resolve(), reply: quiet(Promise.reject(refusal)) }
    const call = this.#nextCall()
    const { deadlineMs } = options
    const outbox = this.#open()
    const shmOffset = this.#regions?.put(call, bytesOf(frame.rows), replyBytes(frame)) ?? 0
    const bytes = encodeRequest({ ...bare, call, model, deadlineMs: Math.ceil(deadlineMs), frame, shmOffset })
    const reply = new Promise<ExpertReply>((resolve, reject) => {
      const scales = frame.rowScale ? frame.rowIndex.length : 0
      const due = { values: frame.rowIndex.length * frame.hidden, scales }
      const end = this.#limit(call, options)
      this.#outstanding.set(call, {
        due,
        resolve: (value) => {
          end()
          resolve(value)
        },
        reject: (error) => {
          end()
          reject(error)
        },
      })
    })
    return { written: outbox.write(call, bytes), reply: quiet(reply) }
  }

  #nextCall(): number {
    this.#lastCall += 1
    return this.#lastCall
  }

  /** Resolves when the worker has everything that was written before, and when the stream is lost. */
  #fence(outbox: Outbox): Promise<void> {
    return new Promise((resolve) => this.#ask(outbox, { resolve: () => resolve(), reject: () => resolve() }))
  }

  /** Resolves when the worker answers at all. @throws MeshError as a reply does. */
  ping(limitMs: number): Promise<void> {
    const refusal = this.#refusal(null, undefined)
    if (refusal) return Promise.reject(refusal)
    return new Promise((resolve, reject) => {
      let end = (): void => {}
      const call = this.#ask(this.#open(), {
        resolve: () => {
          end()
          resolve()
        },
        reject: (error) => {
          end()
          reject(error)
        },
      })
      end = this.#limit(call, { deadlineMs: limitMs })
    })
  }

  /** A request with only a call number, answered as soon as it is read. */
  #ask(outbox: Outbox, waiting: Pick<Outstanding, 'resolve' | 'reject'>): number {
    const call = this.#nextCall()
    this.#outstanding.set(call, { due: { values: 0, scales: 0 }, ...waiting })
    outbox.ask(call, encodeRequest({ ...bare, call }))
    return call
  }

  close(): void {
    this.#closed = true
    this.#lose(this.#outbox, new MeshError(Code.CANCELLED, `the channel to worker ${this.address} was closed`))
    this.#client.close()
  }

  #refusal(frame: ExpertFrame | null, signal: AbortSignal | undefined): MeshError | null {
    const bytes = frame ? Math.max(frameBytes(frame), replyBytes(frame)) : 0
    if (this.#closed) return new MeshError(Code.CANCELLED, `the channel to worker ${this.address} was closed`)
    if (signal?.aborted) return new MeshError(Code.CANCELLED, 'the call was cancelled before it was sent')
    if (bytes > this.#maxFrameBytes) {
      const cause = `a frame or its answer has ${bytes} bytes and the limit is ${this.#maxFrameBytes}`
      return new MeshError(Code.RESOURCE_EXHAUSTED, `${cause}; cut it, or raise --max-frame-mib on gateway and workers`)
    }
    if (this.#outstanding.size >= OUTSTANDING_CALLS_MAX) {
      return new MeshError(Code.RESOURCE_EXHAUSTED, `worker ${this.address} owes ${OUTSTANDING_CALLS_MAX} answers`)
    }
    return null
  }

  /** Calls the frame off at its deadline or when the signal fires; returns what ends the watch. */
  #limit(call: number, { deadlineMs, signal }: SendOptions): () => void {
    const expire = (): void =>
      this.#forget(
        call,
        new MeshError(Code.DEADLINE_EXCEEDED, `worker ${this.address} did not answer within ${deadlineMs} ms`),
      )
    const abort = (): void => this.#forget(call, new MeshError(Code.CANCELLED, 'the call was cancelled'))
    const timer = deadlineMs > 0 ? setTimeout(expire, deadlineMs) : null
    if (signal) {
      // One signal calls off all frames of a layer: many listeners are no leak.
      setMaxListeners(0, signal)
      signal.addEventListener('abort', abort, { once: true })
    }
    return () => {
      if (timer) clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
    }
  }

  #forget(call: number, error: MeshError): void {
    const waiting = this.#take(call)
    if (!waiting) return
    waiting.reject(error)
    if (this.#outbox?.drop(call)) this.#regions?.free(call)
    else this.#outbox?.stream.write(encodeRequest({ ...bare, cancelCall: call }))
  }

  #take(call: number): Outstanding | undefined {
    const waiting = this.#outstanding.get(call)
    this.#outstanding.delete(call)
    return waiting
  }

  #open(): Outbox {
    if (this.#outbox) return this.#outbox
    const stream: Stream = this.#client.Forward(this.#metadata)
    const outbox: Outbox = new Outbox(stream, () => this.#fence(outbox))
    this.#outbox = outbox
    stream.on('metadata', (metadata) => this.#share(outbox, String(metadata.get(SHM_METADATA)[0] ?? '')))
    stream.on('data', (bytes) => this.#receive(outbox, bytes))
    stream.on('error', (error) => this.#lose(outbox, lost(this.address, error)))
    stream.on('end', () => this.#lose(outbox, lost(this.address, new Error('it ended the stream'))))
    return outbox
  }

  #share(outbox: Outbox, name: string): void {
    const socket = socketOf(this.address)
    if (outbox === this.#outbox && socket && name) this.#regions = Regions.open(socket, name)
  }

  #receive(outbox: Outbox, bytes: Buffer): void {
    const answered = callOf(bytes)
    outbox.answered(answered)
    const regions = this.#regions
    try {
      const read = (length: number, call: number): Uint8Array | null => {
        const rows = scratch.take(length)
        return regions?.read(call, rows) ? rows : null
      }
      const response = decodeResponse(bytes, read, this.#maxFrameBytes)
      // Call 0 answers a message that the worker could not read: which one is unknown, so all are sent anew.
      if (response.call === 0) this.#lose(outbox, lost(this.address, new Error(response.message)))
      else this.#settle(response, bytes.length)
    } catch (error) {
      this.#take(answered)?.reject(MeshError.from(error))
    } finally {
      regions?.free(answered)
    }
  }

  #settle(response: ForwardResponse, bytes: number): void {
    const waiting = this.#take(response.call)
    if (!waiting) return
    const { rows, rowScale, computeUs, waitUs, busyUs } = response
    const [values, scales] = [rows.length, rowScale?.length ?? 0]
    if (response.code !== 0) waiting.reject(refused(this.address, response))
    else if (values !== waiting.due.values || scales !== waiting.due.scales) {
      const due = `${waiting.due.values} and ${waiting.due.scales} were due`
      const cause = `worker ${this.address} answered ${values} values and ${scales} scales where ${due}`
      waiting.reject(new MeshError(Code.DATA_LOSS, cause))
    } else waiting.resolve({ rows, rowScale, finite: finiteRows(response), computeUs, waitUs, busyUs, bytes })
  }

  /** Every outstanding call fails; the next send opens another stream. */
  #lose(outbox: Outbox | null, error: MeshError): void {
    if (outbox === null || outbox !== this.#outbox) return
    this.#outbox = null
    this.#regions?.close()
    this.#regions = null
    for (const [call, waiting] of this.#outstanding) {
      this.#outstanding.delete(call)
      waiting.reject(error)
    }
    outbox.close()
  }
}

/** A request that says nothing. */
const bare: ForwardRequest = { call: 0, model: '', deadlineMs: 0, cancelCall: 0, frame: null, shmOffset: 0 }

const quiet = <T>(promise: Promise<T>): Promise<T> => {
  promise.catch(() => {})
  return promise
}

const lost = (address: string, error: Error): MeshError => {
  const known = MeshError.from(error)
  const code = known.code === Code.UNAUTHENTICATED ? known.code : Code.UNAVAILABLE
  return new MeshError(code, `the stream to worker ${address} was lost: ${known.message}`, { cause: error })
}

const refused = (address: string, { code, message }: ForwardResponse): MeshError => {
  const known = Object.values(Code).find((value) => value === code) ?? Code.INTERNAL
  return new MeshError(known, `worker ${address}: ${message}`)
}
