import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Code } from '../../shared/errors.ts'
import { PRECISIONS } from '../../shared/model/config.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import { equalRows } from '../../shared/model/rows.ts'
import { type HeldExperts, holdDemoExperts, randomFrame } from '../support/held.ts'
import { seeded } from '../support/random.ts'

let worker: HeldExperts
beforeAll(async () => {
  worker = await holdDemoExperts()
})
afterAll(() => worker?.close())

const send = (frame: ExpertFrame, model = worker.hashes.fp32, deadlineMs = 0) =>
  worker.channel.send(frame, model, { deadlineMs }).reply
const refused = (code: Code, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

describe('Forward', () => {
  it.each(PRECISIONS)('computes the bits that the experts have here (%s), many frames at a time', async (precision) => {
    const next = seeded(1)
    const frames = Array.from({ length: 40 }, () => randomFrame(next, worker.hidden, precision))
    const replies = await Promise.all(frames.map((frame) => send(frame, worker.hashes[precision])))
    for (const [i, reply] of replies.entries())
      expect(equalRows(reply, await worker.local[precision].run(frames[i]))).toBe(true)
  })

  it('carries a frame of many flow-control windows', async () => {
    const rowCount = Math.floor((2 ** 20 - 1024) / (worker.hidden * 4 + 8))
    const rows = new Float32Array(rowCount * worker.hidden).fill(0.5)
    const rowIndex = Uint32Array.from({ length: rowCount }, (_, i) => i)
    const frame = {
      layer: 2,
      rowCount,
      hidden: worker.hidden,
      rows,
      rowScale: null,
      rowIndex,
      expert: new Uint32Array(rowCount).fill(5),
    }
    const { written, reply } = worker.channel.send(frame, worker.hashes.fp32, { deadlineMs: 0 })
    await written
    expect(await reply).toMatchObject(await worker.local.fp32.run(frame))
  })
})

describe('a bad frame is answered and the next one is served', () => {
  const good = (): ExpertFrame => randomFrame(seeded(2), worker.hidden, 'fp32')
  const bad: [string, (frame: ExpertFrame) => ExpertFrame, Code, RegExp][] = [
    [
      'of rows too wide',
      (f) => ({ ...f, hidden: f.hidden + 1, rows: new Float32Array(f.rowCount * (f.hidden + 1)) }),
      Code.INVALID_ARGUMENT,
      /wide/,
    ],
    [
      'of rows that are not hidden long',
      (f) => ({ ...f, rows: f.rows.slice(1) as Float32Array }),
      Code.INVALID_ARGUMENT,
      /rows has/,
    ],
    ['of a layer the model lacks', (f) => ({ ...f, layer: 77 }), Code.NOT_FOUND, /no \(layer 77, expert \d\)/],
    [
      'of an expert the model lacks',
      (f) => ({ ...f, expert: f.expert.map(() => 4096) }),
      Code.NOT_FOUND,
      /expert 4096\)/,
    ],
    [
      'of an expert that is not held',
      (f) => ({ ...f, layer: 2 }),
      Code.FAILED_PRECONDITION,
      /\(layer 2, expert \d\) is not held/,
    ],
    [
      'of NaN rows',
      (f) => ({ ...f, rows: f.rows.map(() => Number.NaN) as Float32Array }),
      Code.INVALID_ARGUMENT,
      /not finite/,
    ],
    [
      'of one infinity',
      (f) => ({ ...f, rows: f.rows.map((v, i) => (i === 3 ? -1 / 0 : v)) as Float32Array }),
      Code.INVALID_ARGUMENT,
      /not finite/,
    ],
    [
      'of the other precision',
      (f) => ({ ...f, rows: new Uint8Array(f.rows.length), rowScale: new Float32Array(f.rowCount) }),
      Code.INVALID_ARGUMENT,
      /float32 rows/,
    ],
    ['of no row', (f) => ({ ...f, rowIndex: f.rowIndex.map(() => f.rowCount) }), Code.INVALID_ARGUMENT, /outside/],
  ]
  it.each(bad)('%s', async (_, spoil, code, message) => {
    await expect(send(spoil(good()))).rejects.toEqual(refused(code, message))
    expect(await send(good())).toMatchObject(await worker.local.fp32.run(good()))
  })

  it('of a model that is not here', async () => {
    await expect(send(good(), 'f'.repeat(64))).rejects.toEqual(refused(Code.NOT_FOUND, /sees no model ffffffffffff/))
    await send(good())
  })

  it('that was called off', async () => {
    const abort = new AbortController()
    const frames = Array.from({ length: 30 }, () =>
      worker.channel.send(good(), worker.hashes.fp32, { deadlineMs: 0, signal: abort.signal }),
    )
    abort.abort()
    for (const { reply } of frames) await expect(reply).rejects.toEqual(refused(Code.CANCELLED, /cancelled/))
    await send(good())
  })

  it('that is larger than the limit, without being sent', async () => {
    const rowCount = Math.ceil(2 ** 20 / (worker.hidden * 4)) + 1
    const large = { ...good(), rowCount, rows: new Float32Array(rowCount * worker.hidden) }
    await expect(send(large)).rejects.toEqual(refused(Code.RESOURCE_EXHAUSTED, /--max-frame-mib/))
    await send(good())
  })
})
