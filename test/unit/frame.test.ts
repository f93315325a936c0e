import { crc32 } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { Code, MeshError } from '../../shared/errors.ts'
import {
  callOf,
  checksum,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  type ForwardRequest,
  type ForwardResponse,
  FRAME_HEAD_BYTES,
  frameBytes,
} from '../../shared/frame.ts'
import type { ForwardRequest__Output } from '../../shared/gen/expertmesh/v1/ForwardRequest.ts'
import type { ForwardResponse__Output } from '../../shared/gen/expertmesh/v1/ForwardResponse.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import { NO_ROWS } from '../../shared/model/rows.ts'
import { EXPERT_SERVICE, loadProto, serviceOf } from '../../shared/rpc.ts'
import { seeded } from '../support/random.ts'

const { Forward } = serviceOf(loadProto('expert'), EXPERT_SERVICE)

type Next = (below: number) => number

const randomFrame = (next: Next, precision: 'fp32' | 'int8'): ExpertFrame => {
  const [rowCount, hidden, assignments] = [1 + next(9), 1 + next(40), 1 + next(20)]
  const numbers = (count: number): Float32Array => Float32Array.from({ length: count }, () => next(2000) / 100 - 10)
  const int8 = precision === 'int8'
  return {
    layer: next(100),
    rowCount,
    hidden,
    rows: int8 ? Uint8Array.from({ length: rowCount * hidden }, () => next(256)) : numbers(rowCount * hidden),
    rowScale: int8 ? numbers(rowCount) : null,
    rowIndex: Uint32Array.from({ length: assignments }, () => next(rowCount)),
    expert: Uint32Array.from({ length: assignments }, () => next(256)).sort(),
  }
}

const randomRequest = (next: Next): ForwardRequest => ({
  call: 1 + next(2) * 2 ** 40 + next(1000),
  model: 'ab'.repeat(next(30)),
  deadlineMs: next(2) * next(100_000),
  cancelCall: 0,
  frame: randomFrame(next, next(2) === 0 ? 'fp32' : 'int8'),
  shmOffset: 0,
})

const randomResponse = (next: Next): ForwardResponse => {
  const [count, hidden, int8] = [next(10), 1 + next(40), next(2) === 0]
  const numbers = (length: number): Float32Array => Float32Array.from({ length }, () => next(2000) / 100 - 10)
  // Without rows there are no scales that would tell the kind.
  const rowScale = int8 && count > 0 ? numbers(count) : null
  const bytes = Uint8Array.from({ length: count * hidden }, () => next(256))
  const rows = { rows: rowScale ? bytes : numbers(count * hidden), rowScale }
  return {
    call: 1 + next(1000),
    code: 0,
    message: '',
    computeUs: next(5000),
    busyUs: next(9000),
    waitUs: next(5000),
    ...rows,
    crc: checksum(rows),
  }
}

/** As protobufjs sees the request. */
const plain = ({ call, model, deadlineMs, cancelCall, frame, shmOffset }: ForwardRequest) => ({
  call,
  model,
  layer: frame!.layer,
  row_count: frame!.rowCount,
  hidden: frame!.hidden,
  deadline_ms: deadlineMs,
  cancel_call: cancelCall,
  row_index: [...frame!.rowIndex],
  expert: [...frame!.expert],
  rows: Buffer.from(frame!.rows.buffer, frame!.rows.byteOffset, frame!.rows.byteLength),
  row_scale: [...(frame!.rowScale ?? [])],
  shm_offset: shmOffset,
})

/** protobufjs writes what it is given; proto3 leaves out what is zero or empty. */
const withoutDefaults = (fields: Record<string, number | string | ArrayLike<unknown>>) =>
  Object.fromEntries(
    Object.entries(fields).filter(([, value]) => (typeof value === 'number' ? value !== 0 : value.length > 0)),
  )

/** Decoded int8 rows are a Buffer; equality is meant between bytes. */
const asArrays = ({ frame, ...head }: ForwardRequest) => ({
  ...head,
  frame: { ...frame!, rows: frame!.rows instanceof Float32Array ? frame!.rows : new Uint8Array(frame!.rows) },
})

/** A received message stands anywhere in memory, mostly not where a Float32Array could. */
const displaced = (bytes: Buffer, by: number): Buffer => {
  const memory = Buffer.alloc(bytes.length + by)
  bytes.copy(memory, by)
  return memory.subarray(by)
}

const codeOf = (act: () => unknown): Code | null => {
  try {
    act()
    return null
  } catch (error) {
    if (error instanceof MeshError) return error.code
    throw error
  }
}

describe('a request frame', () => {
  it('is read by protobufjs as it was written, for random frames', () => {
    const next = seeded(1)
    for (let i = 0; i < 200; i += 1) {
      const request = randomRequest(next)
      const { crc, ...read } = Forward.requestDeserialize(encodeRequest(request)) as ForwardRequest__Output
      expect(read).toEqual(plain(request))
      expect(crc).toBe(crcOf(request.frame!))
    }
  })

  it('is the very bytes protobufjs would write', () => {
    const next = seeded(2)
    for (let i = 0; i < 200; i += 1) {
      const request = randomRequest(next)
      const expected = Forward.requestSerialize(withoutDefaults({ ...plain(request), crc: crcOf(request.frame!) }))
      expect(encodeRequest(request).equals(expected)).toBe(true)
    }
  })

  it('comes back equal from any position in memory', () => {
    const next = seeded(3)
    for (let i = 0; i < 200; i += 1) {
      const request = randomRequest(next)
      expect(asArrays(decodeRequest(displaced(encodeRequest(request), i % 8)))).toEqual(request)
    }
  })

  it('needs no more head room than is promised', () => {
    const frame = randomFrame(seeded(4), 'int8')
    const numbers = { call: 2 ** 53 - 1, deadlineMs: 2 ** 32 - 1, cancelCall: 0, shmOffset: 0 }
    const largest = { ...numbers, model: 'm'.repeat(256), frame }
    expect(encodeRequest(largest).length - frameBytes(frame)).toBeLessThanOrEqual(FRAME_HEAD_BYTES)
  })

  it('may carry unpacked, split and unknown fields', () => {
    const request = { ...randomRequest(seeded(5)), call: 7 }
    const { rowIndex, expert } = request.frame!
    const packed = encodeRequest(request)
    const unpacked = (field: number, values: Uint32Array): Buffer =>
      Buffer.concat([...values].map((value) => Buffer.concat([Buffer.from([field * 8 + 5]), fixed32(value)])))
    const empty = { ...request.frame!, rowIndex: new Uint32Array(0), expert: new Uint32Array(0) }
    const without = encodeRequest({ ...request, frame: empty })
    const firstOfExpert = Buffer.concat([Buffer.from([9 * 8 + 2, 4]), fixed32(expert[0])])
    const unknown = Buffer.concat([Buffer.from([15 * 8 + 1]), Buffer.alloc(8, 1), Buffer.from([0xa2, 0x06, 2, 1, 1])])
    const crc = packed.subarray(packed.length - 5)
    const mixed = [without, unpacked(8, rowIndex), firstOfExpert, unknown, unpacked(9, expert.subarray(1)), crc]
    expect(asArrays(decodeRequest(Buffer.concat(mixed)))).toEqual(request)
  })

  it.each([
    ['to cancel another', { call: 0, cancelCall: 12 }],
    ['that is a fence', { call: 12, cancelCall: 0 }],
  ])('%s carries nothing else', (_, numbers) => {
    const request = { ...numbers, model: '', deadlineMs: 0, frame: null, shmOffset: 0 }
    expect(decodeRequest(encodeRequest(request))).toEqual(request)
  })
})

describe('a request that contradicts itself is refused as INVALID_ARGUMENT', () => {
  const frame: ExpertFrame = {
    layer: 1,
    rowCount: 2,
    hidden: 3,
    rows: new Float32Array(6),
    rowScale: null,
    rowIndex: Uint32Array.of(0, 1),
    expert: Uint32Array.of(4, 5),
  }
  const outcome = (change: Partial<ForwardRequest>): Code | null => {
    const request = { call: 1, model: 'm', deadlineMs: 0, cancelCall: 0, frame, shmOffset: 0, ...change }
    return codeOf(() => decodeRequest(encodeRequest(request)))
  }
  const cases: [string, Partial<ExpertFrame>][] = [
    ['rows too short', { rows: new Float32Array(5) }],
    ['rows too long', { rows: new Float32Array(7) }],
    ['rows of the other precision', { rows: new Uint8Array(6) }],
    ['more rows than bytes could be', { rowCount: 2 ** 32 - 1, hidden: 2 ** 32 - 1 }],
    ['no rows', { rowCount: 0, rows: new Float32Array(0) }],
    ['a hidden of 0', { hidden: 0, rows: new Float32Array(0) }],
    ['no assignments', { rowIndex: new Uint32Array(0), expert: new Uint32Array(0) }],
    ['fewer experts than row indices', { expert: Uint32Array.of(4) }],
    ['a row index one past the end', { rowIndex: Uint32Array.of(0, 2) }],
    ['experts that descend', { expert: Uint32Array.of(5, 4) }],
    ['one scale for two rows', { rows: new Uint8Array(6), rowScale: Float32Array.of(1) }],
  ]
  it.each(cases)('%s', (_, change) => {
    expect(outcome({ frame: { ...frame, ...change } })).toBe(Code.INVALID_ARGUMENT)
  })

  it('a model name one byte too long', () => {
    expect(outcome({ model: 'm'.repeat(257) })).toBe(Code.INVALID_ARGUMENT)
  })

  it('the unchanged frame is accepted', () => {
    expect(outcome({})).toBe(null)
  })
})

describe('a response frame', () => {
  it('agrees with protobufjs byte for byte and field for field', () => {
    const next = seeded(6)
    for (let i = 0; i < 200; i += 1) {
      const response = randomResponse(next)
      const rows = Buffer.from(response.rows.buffer)
      const { call, code, message, computeUs, waitUs, busyUs, crc } = response
      const row_scale = [...(response.rowScale ?? [])]
      const bytes = encodeResponse(response)
      const { padding } = Forward.responseDeserialize(bytes) as ForwardResponse__Output
      const head = { call, code, message, compute_us: computeUs, wait_us: waitUs, crc }
      const fields = { ...head, padding, rows, shm_bytes: 0, row_scale, busy_us: busyUs }
      expect(bytes.equals(Forward.responseSerialize(withoutDefaults(fields)))).toBe(true)
      expect(Forward.responseDeserialize(bytes) as ForwardResponse__Output).toEqual(fields)
      expect(decodeResponse(displaced(bytes, i % 8))).toEqual(response)
    }
  })

  it('has its rows where a receiver can read them in place, five bytes of gRPC before the message', () => {
    const next = seeded(7)
    for (let i = 0; i < 200; i += 1) {
      const response = randomResponse(next)
      const received = new Uint8Array([0, 0, 0, 0, 0, ...encodeResponse(response)])
      const { rows } = decodeResponse(Buffer.from(received.buffer, 5))
      expect(rows.buffer === received.buffer).toBe(response.rows.length > 0)
    }
  })

  it('with an error carries its message', () => {
    const empty = { computeUs: 0, waitUs: 9, busyUs: 8, ...NO_ROWS, crc: 0 }
    const failure = { call: 3, code: Code.NOT_FOUND, message: 'no such expert', ...empty }
    expect(decodeResponse(encodeResponse(failure))).toEqual(failure)
  })
})

describe('a damaged message', () => {
  const flips = (bytes: Buffer, next: Next): Buffer => {
    const damaged = Buffer.from(bytes)
    for (let i = 0; i <= next(3); i += 1) damaged[next(damaged.length)] ^= 1 << next(8)
    return damaged.subarray(0, next(3) === 0 ? next(damaged.length + 1) : damaged.length)
  }
  const allowed = [null, Code.INVALID_ARGUMENT, Code.DATA_LOSS]

  it('never throws anything but INVALID_ARGUMENT or DATA_LOSS', () => {
    const next = seeded(7)
    for (let i = 0; i < 4000; i += 1) {
      const request = flips(encodeRequest(randomRequest(next)), next)
      const response = flips(encodeResponse(randomResponse(next)), next)
      expect(allowed).toContain(codeOf(() => decodeRequest(request)))
      expect(allowed).toContain(codeOf(() => decodeResponse(response)))
      expect(callOf(request)).toBeGreaterThanOrEqual(0)
    }
  })

  it('is DATA_LOSS for any flipped bit of the tensors, and keeps its call number', () => {
    const next = seeded(8)
    for (let i = 0; i < 300; i += 1) {
      const request = randomRequest(next)
      const bytes = encodeRequest(request)
      const rows = Buffer.from(request.frame!.rows.buffer)
      bytes[bytes.indexOf(rows) + next(rows.length)] ^= 1 << next(8)
      expect(codeOf(() => decodeRequest(bytes))).toBe(Code.DATA_LOSS)
      expect(callOf(bytes)).toBe(request.call)
    }
  })

  it('of random bytes is refused', () => {
    const next = seeded(9)
    for (let i = 0; i < 2000; i += 1) {
      const bytes = Buffer.from(Array.from({ length: next(60) }, () => next(256)))
      expect([Code.INVALID_ARGUMENT, Code.DATA_LOSS, null]).toContain(codeOf(() => decodeRequest(bytes)))
    }
  })
})

const fixed32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

/** The contract's order, over one buffer. */
const crcOf = ({ rowIndex, expert, rows, rowScale }: ExpertFrame): number =>
  crc32(Buffer.concat([rowIndex, expert, rows, rowScale ?? new Uint8Array(0)].map((a) => Buffer.from(a.buffer))))
