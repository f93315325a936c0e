/** The entry of a thread that reads its own memory again and again and tells how fast. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { parentPort, workerData } from 'node:worker_threads'
import type { ReadOptions } from './bandwidth.ts'

const { bytes, passes } = workerData as ReadOptions
assert(parentPort)

// Every page is written, or all of them would be the one page of zeros.
const buffer = Buffer.alloc(bytes, 1)
const [front, back] = [buffer.subarray(0, bytes / 2), buffer.subarray(bytes / 2)]
const ways = [() => assert(buffer.indexOf(2) === -1), () => assert(front.equals(back))]

parentPort.postMessage('ready')
await once(parentPort, 'message')
const rates = Array.from({ length: passes }, () =>
  ways.map((read) => {
    const begun = performance.now()
    read()
    return (bytes * 1000) / (performance.now() - begun)
  }),
).flat()
parentPort.postMessage(rates)
