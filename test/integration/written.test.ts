import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { Server, ServerDuplexStream } from '@grpc/grpc-js'
import { afterAll, afterEach, expect, it } from 'vitest'
import { connectWorker } from '../../services/gateway/forward/channel.ts'
import { Code } from '../../shared/errors.ts'
import { checksum, decodeRequest, encodeResponse } from '../../shared/frame.ts'
import { NO_ROWS, roomLike } from '../../shared/model/rows.ts'
import { built } from '../../shared/root.ts'
import { expertService, loadProto } from '../../shared/rpc.ts'
import { closeServer, createServer, listen } from '../../shared/server.ts'

const MAX_MESSAGE_BYTES = 2 ** 26
const HIDDEN = 1024
const folder = mkdtempSync(join(tmpdir(), 'expertmesh-written-'))

/** Sends a warm-up frame and then one of the given rows; once it counts as written, blocks until it is told that it arrived. */
const sender = `
const { workerData, parentPort } = require('node:worker_threads')
const { channel, address, rows, hidden, arrived } = workerData
const frame = (rowCount) => ({
  layer: 0, rowCount, hidden, rows: new Float32Array(rowCount * hidden).fill(1), rowScale: null,
  rowIndex: Uint32Array.of(0), expert: Uint32Array.of(0),
})
import(channel).then(async ({ connectWorker }) => {
  const worker = connectWorker({ address, token: null, maxFrameBytes: ${MAX_MESSAGE_BYTES} })
  await worker.send(frame(1), 'model', { deadlineMs: 0 }).reply
  const { written, reply } = worker.send(frame(rows), 'model', { deadlineMs: 0 })
  await written
  const outcome = Atomics.wait(new Int32Array(arrived), 0, 0, 10_000)
  await reply
  worker.close()
  parentPort.postMessage(outcome)
})`

let server: Server
afterEach(() => closeServer(server, 100))
afterAll(() => rmSync(folder, { recursive: true }))

/** A worker whose experts answer with zeros. */
const serve = async (address: string, onRows: (rowCount: number) => void): Promise<string> => {
  const proto = loadProto('expert')
  server = createServer({ token: null, maxMessageBytes: MAX_MESSAGE_BYTES })
  const unused = (): never => {
    throw new Error('not part of this test')
  }
  const Forward = (stream: ServerDuplexStream<Buffer, Buffer>): void => {
    stream.on('data', (bytes: Buffer) => {
      const { call, frame } = decodeRequest(bytes)
      if (frame) onRows(frame.rowCount)
      const rows = roomLike(NO_ROWS, frame?.rowIndex.length ?? 0, frame?.hidden ?? 0)
      const head = { call, code: 0, message: '', computeUs: 0, waitUs: 0, busyUs: 0 }
      stream.write(encodeResponse({ ...head, ...rows, crc: checksum(rows) }))
    })
    stream.on('end', () => stream.end())
  }
  server.addService(expertService(proto), { Forward, Load: unused, Unload: unused, Holdings: unused })
  return listen(server, address)
}

const addresses = ['127.0.0.1:0', `unix:${join(folder, 'socket')}`]
const cases = addresses.flatMap((address) => [2, 16, 64, 130, 512, 4096].map((rows) => ({ address, rows })))

it.each(cases)(
  'a written frame of $rows rows of 4 KiB reaches $address while its sender is blocked',
  async ({ address, rows }) => {
    const arrived = new SharedArrayBuffer(4)
    const bound = await serve(address, (rowCount) => {
      if (rowCount !== rows) return
      Atomics.store(new Int32Array(arrived), 0, 1)
      Atomics.notify(new Int32Array(arrived), 0)
    })
    const channel = pathToFileURL(built('services/gateway/forward/channel.ts')).href
    const thread = new Worker(sender, {
      eval: true,
      workerData: { channel, address: bound, rows, hidden: HIDDEN, arrived },
    })
    const outcome = await new Promise((resolve, reject) => {
      thread.on('message', resolve)
      thread.on('error', reject)
    })
    // 'ok': woken while it slept; 'not-equal': the frame was there even before it went to sleep.
    expect(['ok', 'not-equal']).toContain(outcome)
    await thread.terminate()
  },
)

it.each(addresses)(
  'frames and answers that are larger than the sockets of %s take do not block each other',
  async (address) => {
    const channel = connectWorker({
      address: await serve(address, () => {}),
      token: null,
      maxFrameBytes: MAX_MESSAGE_BYTES,
    })
    const rowCount = 2048
    const rowIndex = Uint32Array.from({ length: rowCount }, (_, i) => i)
    const rows = new Float32Array(rowCount * HIDDEN).fill(1)
    const frame = {
      layer: 0,
      rowCount,
      hidden: HIDDEN,
      rows,
      rowScale: null,
      rowIndex,
      expert: new Uint32Array(rowCount),
    }
    const sent = [0, 1, 2, 3].map(() => channel.send(frame, 'model', { deadlineMs: 0 }))
    const replies = await Promise.all(sent.map(({ reply }) => reply))
    expect(replies.map((reply) => reply.rows.length)).toEqual(Array(4).fill(rowCount * HIDDEN))
    await Promise.all(sent.map(({ written }) => written))
    channel.close()
  },
)

it('a frame that waits to be written is forgotten when it is called off', async () => {
  const channel = connectWorker({
    address: await serve(addresses[1], () => {}),
    token: null,
    maxFrameBytes: MAX_MESSAGE_BYTES,
  })
  const rows = new Float32Array(128 * HIDDEN).fill(1)
  const [rowIndex, expert] = [Uint32Array.of(0), Uint32Array.of(0)]
  const frame = { layer: 0, rowCount: 128, hidden: HIDDEN, rows, rowScale: null, rowIndex, expert }
  const abort = new AbortController()
  const first = channel.send(frame, 'model', { deadlineMs: 0 })
  const second = channel.send(frame, 'model', { deadlineMs: 0, signal: abort.signal })
  const third = channel.send(frame, 'model', { deadlineMs: 0 })
  abort.abort()
  await expect(second.reply).rejects.toMatchObject({ code: Code.CANCELLED })
  await second.written
  await Promise.all([first.reply, third.reply])
  channel.close()
})

it('an answer in floats to a frame in bytes, as of a worker of another version, is data loss', async () => {
  const address = await serve('127.0.0.1:0', () => {})
  const channel = connectWorker({ address, token: null, maxFrameBytes: MAX_MESSAGE_BYTES })
  const head = { layer: 0, rowCount: 1, hidden: HIDDEN, rowIndex: Uint32Array.of(0), expert: Uint32Array.of(0) }
  const floats = { ...head, rows: new Float32Array(HIDDEN), rowScale: null }
  const bytes = { ...head, rows: new Uint8Array(HIDDEN), rowScale: new Float32Array(1) }
  await channel.send(floats, 'model', { deadlineMs: 0 }).reply
  await expect(channel.send(bytes, 'model', { deadlineMs: 0 }).reply).rejects.toMatchObject({
    code: Code.DATA_LOSS,
    message: expect.stringContaining('0 scales where 1024 and 1 were due'),
  })
  channel.close()
})
