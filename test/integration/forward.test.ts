import { once } from 'node:events'
import { crc32 } from 'node:zlib'
import { credentials, loadPackageDefinition, Metadata } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { controlWorker } from '../../services/gateway/placement/workers.ts'
import { Code } from '../../shared/errors.ts'
import type { ProtoGrpcType } from '../../shared/gen/expert.ts'
import type { ExpertServiceClient } from '../../shared/gen/expertmesh/v1/ExpertService.ts'
import type { ForwardRequest } from '../../shared/gen/expertmesh/v1/ForwardRequest.ts'
import type { ForwardResponse__Output } from '../../shared/gen/expertmesh/v1/ForwardResponse.ts'
import { loadProto } from '../../shared/rpc.ts'
import { bytesOf } from '../../shared/wire.ts'
import { type HeldExperts, holdDemoExperts, randomFrame, TOKEN } from '../support/held.ts'
import { seeded } from '../support/random.ts'

let worker: HeldExperts
beforeAll(async () => {
  worker = await holdDemoExperts()
})
afterAll(() => worker?.close())

describe('a client that knows the proto and nothing else', () => {
  const { ExpertService } = (loadPackageDefinition(loadProto('expert')) as unknown as ProtoGrpcType).expertmesh.v1
  const authorised = bearer(TOKEN)
  let client: ExpertServiceClient
  beforeAll(() => {
    client = new ExpertService(worker.address, credentials.createInsecure())
  })
  afterAll(() => client.close())

  const request = (call: number): ForwardRequest => {
    const { rows, rowIndex, expert, rowCount } = randomFrame(seeded(7), worker.hidden, 'fp32')
    const bytes = Buffer.from(rows.buffer)
    const crc = crc32(Buffer.concat([Buffer.from(rowIndex.buffer), Buffer.from(expert.buffer), bytes]))
    const tensors = { row_index: [...rowIndex], expert: [...expert], rows: bytes, crc }
    return { call, model: worker.hashes.fp32, layer: 1, row_count: rowCount, hidden: worker.hidden, ...tensors }
  }

  /** The same row many times. */
  const oneRow = (call: number, assignments: number): ForwardRequest => {
    const [row_index, expert] = [new Uint32Array(assignments), new Uint32Array(assignments).fill(1)]
    const rows = Buffer.alloc(worker.hidden * 4, 1)
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
    const expected = Buffer.from(
      bytesOf((await worker.local.fp32.run(randomFrame(seeded(7), worker.hidden, 'fp32'))).rows),
    )
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
    const most = Math.floor(2 ** 20 / (worker.hidden * 4))
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
