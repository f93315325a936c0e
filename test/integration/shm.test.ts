import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Code } from '../../shared/errors.ts'
import { PRECISIONS, type Precision } from '../../shared/model/config.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import { equalRows, type TokenRows } from '../../shared/model/rows.ts'
import { type HeldExperts, holdDemoExperts, randomFrame } from '../support/held.ts'
import { seeded } from '../support/random.ts'

const folder = mkdtempSync(join(tmpdir(), 'expertmesh-shm-'))
const MESSAGE_BYTES_MAX = 10_000

let worker: HeldExperts
beforeAll(async () => {
  worker = await holdDemoExperts(`unix:${join(folder, 'socket')}`)
  const small = randomFrame(seeded(1), worker.hidden, 'fp32')
  await worker.channel.send(small, worker.hashes.fp32, { deadlineMs: 0 }).reply
})
afterAll(async () => {
  await worker?.close()
  rmSync(folder, { recursive: true })
})

/** Rows for experts 0 to 3 of layer 1 whose answer is too large for a message that carries them. */
const largeFrame = (next: (limit: number) => number, precision: Precision): ExpertFrame => {
  const frame = randomFrame(next, worker.hidden, precision)
  const assignments = 100 + next(300)
  return {
    ...frame,
    rowIndex: Uint32Array.from({ length: assignments }, () => next(frame.rowCount)),
    expert: Uint32Array.from({ length: assignments }, () => next(4)).sort(),
  }
}

const send = (frame: ExpertFrame, precision: Precision, signal?: AbortSignal) =>
  worker.channel.send(frame, worker.hashes[precision], { deadlineMs: 0, ...(signal && { signal }) }).reply

const expectBits = async (rows: TokenRows, frame: ExpertFrame, precision: Precision): Promise<void> =>
  expect(equalRows(rows, await worker.local[precision].run(frame))).toBe(true)

test('the memory that a worker and a gateway share has no name any more', () => {
  expect(readdirSync(folder)).toEqual(['socket'])
})

test.each(PRECISIONS)(
  'rows that go through shared memory have the bits of those in messages (%s), many at a time',
  async (precision) => {
    const next = seeded(2)
    const frames = Array.from({ length: 30 }, () => largeFrame(next, precision))
    const replies = await Promise.all(frames.map((frame) => send(frame, precision)))
    for (const [i, reply] of replies.entries()) {
      expect(reply.bytes).toBeLessThan(MESSAGE_BYTES_MAX)
      await expectBits(reply, frames[i], precision)
    }
  },
)

test('what a call left behind that was called off is not taken for the answer to another', async () => {
  const next = seeded(3)
  for (let round = 0; round < 20; round++) {
    const [kept, dropped] = [0, 1].map(() => Array.from({ length: 3 }, () => largeFrame(next, 'int8')))
    const abort = new AbortController()
    const off = dropped.map((frame) => send(frame, 'int8', abort.signal))
    const replies = kept.map((frame) => send(frame, 'int8'))
    setTimeout(() => abort.abort(), next(4))
    for (const [i, reply] of replies.entries()) await expectBits(await reply, kept[i], 'int8')
    for (const outcome of await Promise.allSettled(off))
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: Code.CANCELLED })
  }
})
