import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { connectWorker } from '../../services/gateway/forward/channel.ts'
import { dispatch, type Runner } from '../../services/gateway/forward/dispatch.ts'
import { built } from '../../shared/root.ts'

const HIDDEN = 1024
const FRAME_BYTES_MAX = 2 ** 26
/** How long a shared expert keeps the gateway's thread from doing anything else. */
const BLOCK_MS = 50
const ARRIVAL_LIMIT_MS = 5
/** And the worker's experts take this long. */
const COMPUTE_MS = 20
const RUNS = 15

/**
 * A process that takes frames as a worker does and says when the last byte of each was there, in milliseconds of the clock that all
 * processes of a machine share (CLOCK_MONOTONIC).
 */
const receiver = (address: string): string => `
import { checksum, decodeRequest, encodeResponse } from '${pathToFileURL(built('shared/frame.ts')).href}'
import { createServer, expertService, listen, loadProto } from '${pathToFileURL(built('shared/rpc.ts')).href}'
const server = createServer({ token: null, maxMessageBytes: ${FRAME_BYTES_MAX} })
const Forward = (stream) => {
  stream.on('data', (bytes) => {
    const atMs = Number(process.hrtime.bigint()) / 1e6
    const { call, frame } = decodeRequest(bytes)
    const rows = new Float32Array(frame ? frame.rowIndex.length * frame.hidden : 0)
    const answer = { call, code: 0, message: '', computeUs: 0, waitUs: 0, rows, crc: checksum(rows) }
    if (!frame) return stream.write(encodeResponse(answer))
    process.stdout.write('received ' + atMs + '\\n')
    setTimeout(() => stream.write(encodeResponse(answer)), ${COMPUTE_MS})
  })
  stream.on('end', () => stream.end())
}
const unused = () => { throw new Error('not part of this test') }
server.addService(expertService(loadProto('expert')), { Forward, Load: unused, Unload: unused, Holdings: unused })
console.log('listening ' + (await listen(server, '${address}')))
`
const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6

const folder = mkdtempSync(join(tmpdir(), 'expertmesh-dispatch-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** Starts one and says what it says. */
const start = async (address: string) => {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', receiver(address)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const { stdout } = child
  assert(stdout)
  const lines = createInterface(stdout)[Symbol.asyncIterator]()
  const next = async (word: string): Promise<string> => {
    const { value } = await lines.next()
    expect(value).toMatch(new RegExp(`^${word} `))
    return value.slice(word.length + 1)
  }
  const stop = async (): Promise<void> => {
    const exit = once(child, 'exit')
    child.kill()
    await exit
  }
  return { address: await next('listening'), receivedMs: async () => Number(await next('received')), stop }
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]

/** Token rows that all go to one expert, as attention leaves them. */
const layerOf = (rowCount: number) => {
  const rows = new Float32Array(rowCount * HIDDEN).fill(1)
  const attended = { h: rows, rows, scale: null, affinity: null, share: null }
  return { attended, routes: { topK: 1, ids: new Uint32Array(rowCount), weights: new Float32Array(rowCount).fill(1) } }
}

describe.each(['127.0.0.1:0', `unix:${join(folder, 'socket')}`])('to %s', (listen) => {
  let worker: Awaited<ReturnType<typeof start>>
  beforeAll(async () => {
    worker = await start(listen)
  })
  afterAll(() => worker.stop())

  it.each([
    ['4 KB', 1],
    ['64 KB', 16],
    ['256 KB', 64],
    ['1 MB', 256],
  ])('%s are with the worker at once, although the sender then only computes', async (size, rowCount) => {
    const { address, receivedMs } = worker
    const channel = connectWorker({ address, token: null, maxFrameBytes: FRAME_BYTES_MAX })
    const runner: Runner = { name: address, send: (frame, options) => channel.send(frame, 'model', options) }
    const limits = { timeoutMs: 0, frameBytesMax: FRAME_BYTES_MAX }
    const { attended, routes } = layerOf(rowCount)
    const send = () => dispatch(() => runner, 0, HIDDEN, attended, routes, limits, new AbortController().signal)
    // The first frame also dials.
    await (await send()).rows
    await receivedMs()
    const sinceBegun: number[] = []
    const sinceSent: number[] = []
    for (let i = 0; i < RUNS; i++) {
      const begunMs = nowMs()
      const { rows } = await send()
      const sentMs = nowMs()
      while (nowMs() < sentMs + BLOCK_MS);
      const endMs = nowMs()
      await rows
      const atMs = await receivedMs()
      expect(atMs).toBeLessThan(endMs)
      sinceBegun.push(atMs - begunMs)
      sinceSent.push(atMs - sentMs)
    }
    const [begun, sent] = [sinceBegun, sinceSent].map((each) => median(each).toFixed(1))
    console.info(`${size}: received ${begun} ms after dispatch began, ${sent} ms after it was done`)
    expect(median(sinceSent)).toBeLessThan(ARRIVAL_LIMIT_MS)
    channel.close()
  })
})
