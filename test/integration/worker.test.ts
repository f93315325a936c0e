import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { credentials, loadPackageDefinition, Metadata } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { connectWorker, type WorkerChannel } from '../../services/gateway/forward/channel.ts'
import { controlWorker, type WorkerControl } from '../../services/gateway/placement/workers.ts'
import { Code } from '../../shared/errors.ts'
import type { ProtoGrpcType } from '../../shared/gen/expert.ts'
import type { ExpertServiceClient } from '../../shared/gen/expertmesh/v1/ExpertService.ts'
import type { ForwardRequest } from '../../shared/gen/expertmesh/v1/ForwardRequest.ts'
import type { ForwardResponse__Output } from '../../shared/gen/expertmesh/v1/ForwardResponse.ts'
import { type ExpertFrame, type Experts, openExperts } from '../../shared/model/experts.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { loadProto } from '../../shared/rpc.ts'
import { demo } from '../support/cluster.ts'
import { seeded } from '../support/random.ts'
import { type ServiceProcess, startWorker } from '../support/service.ts'

const LIMIT_MS = 60_000
const folder = mkdtempSync(join(tmpdir(), 'expertmesh-worker-'))
const cache = join(folder, 'cache')
const TOKEN = 'a token of its own'.replaceAll(' ', '-')
const held = [
  { layer: 1, experts: [0, 1, 2, 3] },
  { layer: 2, experts: [5] },
]

let worker: ServiceProcess
let control: WorkerControl
let channel: WorkerChannel
let hidden = 0
const hashes = { fp32: '', int8: '' }
/** The same experts in this process. */
const local: Partial<Record<'fp32' | 'int8', Experts>> = {}

beforeAll(async () => {
  const tokenFile = join(folder, 'token')
  writeFileSync(tokenFile, TOKEN)
  const limits = ['--compute-threads', '2', '--threads', '2', '--max-frame-mib', '1', '--max-queued-frames', '64']
  worker = await startWorker([...limits, '--cache', cache, '--token-file', tokenFile])
  control = controlWorker({ address: worker.address, token: TOKEN })
  channel = connectWorker({ address: worker.address, token: TOKEN, maxFrameBytes: 2 ** 20 })
  const model = await openModel(demo)
  hidden = model.config.hidden
  for (const precision of ['fp32', 'int8'] as const) {
    hashes[precision] = await modelHash(model, precision, cache)
    await control.load(hashes[precision], held, LIMIT_MS)
    const experts = await openExperts({ modelDir: demo, cacheDir: cache, precision, device: 'cpu', threads: 1 })
    for (const { layer, experts: ids } of held) for (const expert of ids) await experts.load(layer, expert)
    local[precision] = experts
  }
  await model.close()
})

afterAll(async () => {
  channel?.close()
  control?.close()
  await worker?.stop()
  for (const experts of Object.values(local)) await experts.close()
  rmSync(folder, { recursive: true })
})

const randomFrame = (next: (limit: number) => number, precision: 'fp32' | 'int8'): ExpertFrame => {
  const [rowCount, assignments] = [1 + next(6), 1 + next(12)]
  const length = rowCount * hidden
  const int8 = precision === 'int8'
  return {
    layer: 1,
    rowCount,
    hidden,
    rows: int8
      ? Uint8Array.from({ length }, () => 1 + next(255))
      : Float32Array.from({ length }, () => next(2000) / 1000 - 1),
    rowScale: int8 ? Float32Array.from({ length: rowCount }, () => next(1000) / 500) : null,
    rowIndex: Uint32Array.from({ length: assignments }, () => next(rowCount)),
    expert: Uint32Array.from({ length: assignments }, () => next(4)).sort(),
  }
}

const send = (frame: ExpertFrame, model = hashes.fp32, deadlineMs = 0) =>
  channel.send(frame, model, { deadlineMs }).reply
const refused = (code: Code, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

describe('Forward', () => {
  it.each(['fp32', 'int8'] as const)(
    'computes the bits that the experts have here (%s), many frames at a time',
    async (precision) => {
      const next = seeded(1)
      const frames = Array.from({ length: 40 }, () => randomFrame(next, precision))
      const replies = await Promise.all(frames.map((frame) => send(frame, hashes[precision])))
      for (const [i, { rows }] of replies.entries()) {
        expect(Buffer.from(rows.buffer, rows.byteOffset, rows.byteLength)).toEqual(
          Buffer.from((await local[precision]!.run(frames[i])).buffer),
        )
      }
    },
  )

  it('carries a frame of many flow-control windows', async () => {
    const rowCount = Math.floor((2 ** 20 - 1024) / (hidden * 4 + 8))
    const rows = new Float32Array(rowCount * hidden).fill(0.5)
    const rowIndex = Uint32Array.from({ length: rowCount }, (_, i) => i)
    const frame = {
      layer: 2,
      rowCount,
      hidden,
      rows,
      rowScale: null,
      rowIndex,
      expert: new Uint32Array(rowCount).fill(5),
    }
    const { written, reply } = channel.send(frame, hashes.fp32, { deadlineMs: 0 })
    await written
    expect((await reply).rows).toEqual(await local.fp32!.run(frame))
  })
})

describe('a bad frame is answered and the next one is served', () => {
  const good = (): ExpertFrame => randomFrame(seeded(2), 'fp32')
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
    expect((await send(good())).rows).toEqual(await local.fp32!.run(good()))
  })

  it('of a model that is not here', async () => {
    await expect(send(good(), 'f'.repeat(64))).rejects.toEqual(refused(Code.NOT_FOUND, /sees no model ffffffffffff/))
    await send(good())
  })

  it('that was called off', async () => {
    const abort = new AbortController()
    const frames = Array.from({ length: 30 }, () =>
      channel.send(good(), hashes.fp32, { deadlineMs: 0, signal: abort.signal }),
    )
    abort.abort()
    for (const { reply } of frames) await expect(reply).rejects.toEqual(refused(Code.CANCELLED, /cancelled/))
    await send(good())
  })

  it('that is larger than the limit, without being sent', async () => {
    const rowCount = Math.ceil(2 ** 20 / (hidden * 4)) + 1
    const large = { ...good(), rowCount, rows: new Float32Array(rowCount * hidden) }
    await expect(send(large)).rejects.toEqual(refused(Code.RESOURCE_EXHAUSTED, /--max-frame-mib/))
    await send(good())
  })
})

describe('a client that knows the proto and nothing else', () => {
  const { ExpertService } = (loadPackageDefinition(loadProto('expert')) as unknown as ProtoGrpcType).expertmesh.v1
  const authorised = new Metadata()
  authorised.set('authorization', `Bearer ${TOKEN}`)
  let client: ExpertServiceClient
  beforeAll(() => {
    client = new ExpertService(worker.address, credentials.createInsecure())
  })
  afterAll(() => client.close())

  const request = (call: number): ForwardRequest => {
    const { rows, rowIndex, expert, rowCount } = randomFrame(seeded(7), 'fp32')
    const bytes = Buffer.from(rows.buffer)
    const crc = crc32(Buffer.concat([Buffer.from(rowIndex.buffer), Buffer.from(expert.buffer), bytes]))
    const tensors = { row_index: [...rowIndex], expert: [...expert], rows: bytes, crc }
    return { call, model: hashes.fp32, layer: 1, row_count: rowCount, hidden, ...tensors }
  }

  /** The same row many times. */
  const oneRow = (call: number, assignments: number): ForwardRequest => {
    const [row_index, expert] = [new Uint32Array(assignments), new Uint32Array(assignments).fill(1)]
    const rows = Buffer.alloc(hidden * 4, 1)
    const crc = crc32(Buffer.concat([Buffer.from(row_index.buffer), Buffer.from(expert.buffer), rows]))
    return { ...request(call), row_count: 1, row_index: [...row_index], expert: [...expert], rows, crc }
  }

  /** Sends all, half-closes, and collects the answers until the worker ends the stream. */
  const exchange = (requests: ForwardRequest[], metadata = authorised): Promise<ForwardResponse__Output[]> =>
    new Promise((resolve, reject) => {
      const answers: ForwardResponse__Output[] = []
      const stream = client.Forward(metadata)
      stream.on('data', (answer) => answers.push(answer))
      stream.on('error', reject)
      stream.on('end', () => resolve(answers.sort((a, b) => a.call - b.call)))
      for (const each of requests) stream.write(each)
      stream.end()
    })

  it('has its frames answered, and every answer before the end of the stream', async () => {
    const answers = await exchange([1, 2, 3].map(request))
    const expected = Buffer.from((await local.fp32!.run(randomFrame(seeded(7), 'fp32'))).buffer)
    expect(answers.map(({ call, code }) => [call, code])).toEqual([
      [1, 0],
      [2, 0],
      [3, 0],
    ])
    for (const { rows, crc } of answers) {
      expect(rows.equals(expected)).toBe(true)
      expect(crc).toBe(crc32(rows))
    }
  })

  it('is told of a wrong checksum, and the frames around it are served', async () => {
    const answers = await exchange([request(1), { ...request(2), crc: 1 }, request(3)])
    expect(answers.map(({ code }) => code)).toEqual([0, Code.DATA_LOSS, 0])
  })

  it('is refused a call number that is in use, or none', async () => {
    const busy = Array.from({ length: 30 }, (_, i) => oneRow(i + 1, 100))
    const answers = await exchange([...busy, request(0), request(30)])
    expect(answers).toHaveLength(32)
    const refusals = answers.filter(({ code }) => code === Code.INVALID_ARGUMENT)
    expect(refusals.map(({ call, message }) => [call, message])).toEqual([
      [0, expect.stringContaining('at least 1')],
      [30, expect.stringContaining('already under way')],
    ])
  })

  it('has a frame over the limit answered by the end of its stream, and may open another', async () => {
    const large = { ...request(1), rows: Buffer.alloc(2 ** 20 + 4096) }
    await expect(exchange([large])).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED })
    expect(await exchange([request(1)])).toHaveLength(1)
  })

  it('has a frame served whose answer is just within the limit, and refused one row beyond it', async () => {
    const most = Math.floor(2 ** 20 / (hidden * 4))
    const answers = await exchange([oneRow(1, most), oneRow(2, most + 1)])
    expect(answers[0].code).toBe(0)
    expect(answers[1]).toMatchObject({
      code: Code.RESOURCE_EXHAUSTED,
      message: expect.stringContaining('cut the frame'),
    })
  })

  it('has a call number alone answered before the frames that wait', async () => {
    const arrived: number[] = []
    const stream = client.Forward(authorised)
    stream.on('data', ({ call, code }) => {
      expect(code).toBe(0)
      arrived.push(call)
    })
    for (let call = 1; call <= 30; call += 1) stream.write(oneRow(call, 100))
    stream.write({ call: 31 })
    stream.end()
    await once(stream, 'end')
    expect(arrived).toHaveLength(31)
    expect(arrived.indexOf(31)).toBeLessThan(30)
  })

  it('has a frame dropped that it cancels before it starts', async () => {
    const frames = Array.from({ length: 30 }, (_, i) => oneRow(i + 1, 100))
    const answers = await exchange([...frames, { cancel_call: 30 }, { cancel_call: 31 }])
    expect(answers.map(({ code }) => code)).toEqual([...new Array(29).fill(0), Code.CANCELLED])
  })

  it('has a frame dropped whose deadline passes before it starts', async () => {
    const answers = await exchange(
      Array.from({ length: 30 }, (_, i) => ({ ...oneRow(i + 1, 100), deadline_ms: i < 29 ? 0 : 1 })),
    )
    expect(answers.map(({ code }) => code)).toEqual([...new Array(29).fill(0), Code.DEADLINE_EXCEEDED])
  })

  it('may not have more frames unanswered than the limit', async () => {
    const answers = await exchange(Array.from({ length: 400 }, (_, i) => request(i + 1)))
    expect(answers).toHaveLength(400)
    const refusals = answers.filter(({ code }) => code === Code.RESOURCE_EXHAUSTED)
    expect(refusals.length).toBeGreaterThan(0)
    expect(answers.filter(({ code }) => code === 0)).toHaveLength(400 - refusals.length)
  })

  it.each([new Metadata(), bearer('wrong'), bearer(`${TOKEN}x`), bearer('')])(
    'without the right token is refused',
    async (metadata) => {
      await expect(exchange([request(1)], metadata)).rejects.toMatchObject({ code: Code.UNAUTHENTICATED })
      const control = controlWorker({ address: worker.address, token: null })
      await expect(control.holdings()).rejects.toMatchObject({ code: Code.UNAUTHENTICATED })
      control.close()
    },
  )
})

function bearer(token: string): Metadata {
  const metadata = new Metadata()
  metadata.set('authorization', `Bearer ${token}`)
  return metadata
}
