import { randomUUID } from 'node:crypto'
import { basename } from 'node:path'
import { Metadata, type ServerDuplexStream } from '@grpc/grpc-js'
import { socketOf } from '../../shared/address.ts'
import { Code, invalid, MeshError } from '../../shared/errors.ts'
import { callOf, checksum, decodeRequest, encodeResponse, frameBytes, replyBytes } from '../../shared/frame.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import { NO_ROWS, type TokenRows } from '../../shared/model/rows.ts'
import { SHM_METADATA, Shm } from '../../shared/shm.ts'
import { statusOf } from '../../shared/status.ts'
import { bytesOf } from '../../shared/wire.ts'
import type { Hold } from './hold.ts'
import { type Done, nowUs } from './job.ts'
import type { Lane } from './lane.ts'
import { merge, split } from './split.ts'

export type ForwardLimits = {
  /** Where this worker listens: beside a unix socket lies the memory that streams share with their gateways. */
  listen: string
  maxFrameBytes: number
  /** Frames of one stream that have no answer yet. */
  maxQueuedFrames: number
}

/** Frames and answers of all streams together may take this many times the largest frame. */
const QUEUED_FRAMES_OF_FULL_SIZE = 8

type Stream = ServerDuplexStream<Buffer, Buffer>
type Answer = TokenRows & { crc: number; computeUs: number; waitUs: number; busyUs: number }
const NOTHING: Answer = { ...NO_ROWS, crc: 0, computeUs: 0, waitUs: 0, busyUs: 0 }

/** Serves Forward streams. After drain has begun every new frame is UNAVAILABLE. */
export type Forward = {
  serve(stream: Stream): void
  /** Resolves when every frame that was accepted is answered. */
  drain(): Promise<void>
}

export const createForward = (hold: Hold, lanes: readonly Lane[], limits: ForwardLimits): Forward => {
  const queue = { bytes: 0, frames: 0, draining: false, onEmpty: (): void => {} }

  /** Holds room for a frame and its answer while `work` runs. */
  const within = async <T>(frame: ExpertFrame, work: () => Promise<T>): Promise<T> => {
    const bytes = frameBytes(frame) + replyBytes(frame)
    if (replyBytes(frame) > limits.maxFrameBytes) {
      throw exhausted(
        `the answer would have ${replyBytes(frame)} bytes and the limit is ${limits.maxFrameBytes}; cut the frame`,
      )
    }
    if (queue.bytes + bytes > limits.maxFrameBytes * QUEUED_FRAMES_OF_FULL_SIZE) {
      throw exhausted('this worker has as many bytes of frames waiting as it may; send fewer at once')
    }
    queue.bytes += bytes
    queue.frames += 1
    try {
      return await work()
    } finally {
      queue.bytes -= bytes
      queue.frames -= 1
      if (queue.frames === 0) queue.onEmpty()
    }
  }

  const run = async (
    stream: Stream,
    request: { model: string; frame: ExpertFrame; deadlineMs: number; signal: AbortSignal },
  ): Promise<Answer> => {
    const arrivedUs = nowUs()
    const { model, frame, deadlineMs, signal } = request
    if (queue.draining) throw new MeshError(Code.UNAVAILABLE, 'this worker is about to end; send the frame elsewhere')
    // Read before the parts leave for their threads, which takes the frame's arrays along.
    const { hidden } = frame
    const assignments = frame.rowIndex.length
    const parts = split(frame, hold.lanesOf(model, frame))
    const options = { owner: stream, signal, ...(deadlineMs > 0 && { startByUs: arrivedUs + deadlineMs * 1000 }) }
    const perform = (): Promise<Done[]> =>
      Promise.all(parts.map((part) => lanes[part.lane].perform({ kind: 'run', model, frame: part.frame }, options)))
    return within(frame, async () => assemble(parts, await perform(), { arrivedUs, assignments, hidden }))
  }

  return {
    serve: (stream) => serveStream(stream, run, limits),
    drain: () => {
      queue.draining = true
      return new Promise((resolve) => {
        queue.onEmpty = resolve
        if (queue.frames === 0) resolve()
      })
    },
  }
}

type Run = (
  stream: Stream,
  request: { model: string; frame: ExpertFrame; deadlineMs: number; signal: AbortSignal },
) => Promise<Answer>

/** Whatever is wrong with a frame is answered to that frame; the stream goes on. */
const serveStream = (stream: Stream, run: Run, limits: ForwardLimits): void => {
  const calls = new Map<number, AbortController>()
  let shm = offerShm(stream, limits.listen)
  let halfClosed = false

  const write = (bytes: Buffer): void => {
    if (stream.cancelled || stream.write(bytes)) return
    // A gateway that does not read its answers sends no more frames until it does.
    stream.pause()
    stream.once('drain', () => stream.resume())
  }

  const fail = (call: number, error: unknown): void => {
    const { code, details } = statusOf(error)
    write(encodeResponse({ call, code, message: details, ...NOTHING }))
  }

  const accept = async (bytes: Buffer): Promise<void> => {
    const read = (length: number, offset: number): Uint8Array | null => {
      const rows = new Uint8Array(length)
      return shm?.read(rows, offset) ? rows : null
    }
    const { call, cancelCall, model, deadlineMs, frame, shmOffset } = decodeRequest(bytes, read, limits.maxFrameBytes)
    if (cancelCall > 0) return calls.get(cancelCall)?.abort()
    if (!frame) return write(encodeResponse({ call, code: 0, message: '', ...NOTHING }))
    if (call === 0) throw invalid('a frame needs a call number of at least 1', 'call')
    if (calls.has(call)) throw invalid(`call ${call} is already under way on this stream`, 'call')
    if (calls.size >= limits.maxQueuedFrames) {
      throw exhausted(
        `${calls.size} frames of this stream wait already; wait for answers, or raise --max-queued-frames`,
      )
    }
    const abort = new AbortController()
    calls.set(call, abort)
    try {
      const answer = await run(stream, { model, frame, deadlineMs, signal: abort.signal })
      const inShm = shmOffset > 0 && shm?.write(bytesOf(answer.rows), shmOffset)
      write(encodeResponse({ call, code: 0, message: '', ...answer }, inShm === true))
    } finally {
      calls.delete(call)
    }
  }

  const endWhenDone = (): void => {
    if (halfClosed && calls.size === 0) stream.end()
  }

  const end = (): void => {
    for (const abort of calls.values()) abort.abort()
    shm?.close()
    shm = null
  }
  stream.on('data', (bytes: Buffer) => {
    accept(bytes)
      .catch((error) => fail(callOf(bytes), error))
      .then(endWhenDone)
  })
  stream.on('cancelled', end)
  stream.on('error', end)
  stream.on('close', end)
  stream.on('end', () => {
    halfClosed = true
    endWhenDone()
  })
}

/** Creates memory to share over a stream, and tells the gateway; null where gateways come over a network. */
const offerShm = (stream: Stream, listen: string): Shm | null => {
  const socket = socketOf(listen)
  if (!socket) return null
  const path = `${socket}.${randomUUID()}`
  const shm = Shm.create(path)
  if (!shm) return null
  const metadata = new Metadata()
  metadata.set(SHM_METADATA, basename(path))
  stream.sendMetadata(metadata)
  return shm
}

const assemble = (
  parts: readonly { positions: Uint32Array | null }[],
  done: readonly Done[],
  { arrivedUs, assignments, hidden }: { arrivedUs: number; assignments: number; hidden: number },
): Answer => {
  const waitUs = Math.max(0, Math.min(...done.map(({ startedUs }) => startedUs)) - arrivedUs)
  const computeUs = Math.max(...done.map((part) => part.computeUs))
  const times = { computeUs, waitUs, busyUs: Math.max(...done.map((part) => part.busyUs)) }
  const whole = done.length === 1 && parts[0].positions === null
  if (whole) return { rows: done[0].rows, rowScale: done[0].rowScale, crc: done[0].crc, ...times }
  const placed = done.map((rows, i) => ({ rows, positions: parts[i].positions ?? new Uint32Array(0) }))
  const rows = merge(placed, assignments, hidden)
  return { ...rows, crc: checksum(rows), ...times }
}

const exhausted = (message: string): MeshError => new MeshError(Code.RESOURCE_EXHAUSTED, message)
