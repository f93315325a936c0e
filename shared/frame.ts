/**
 * ForwardRequest and ForwardResponse of expert.proto, written by hand around the raw tensors: the bytes are those of any
 * protobuf library, at the price of one copy to encode and none (or one, where alignment demands it) to decode.
 */
import { crc32 } from 'node:zlib'
import { Code, invalid, MeshError } from './errors.ts'
import { collect, type Fields } from './fields.ts'
import type { ExpertFrame } from './model/experts.ts'
import { rowBytes, type TokenRows } from './model/rows.ts'
import {
  bytesOf,
  bytesSize,
  type Cursor,
  fixedSize,
  floatsOf,
  integersOf,
  numberSize,
  readFields,
  VARINT,
  writeBytes,
  writeFixed,
  writeNumber,
} from './wire.ts'

/** frame is null when cancelCall names a call to forget, and in a fence: a call number alone, answered as soon as it is read. */
export type ForwardRequest = {
  call: number
  model: string
  /** 0 is no limit. */
  deadlineMs: number
  cancelCall: number
  frame: ExpertFrame | null
  /** Where the rows lie in shared memory, and where those that answer belong; 0: the messages carry them. */
  shmOffset: number
}

/** code 0 is OK; any other comes with a message and no rows. Rows [A,H] are of the request's kind. */
export type ForwardResponse = TokenRows & {
  call: number
  code: number
  message: string
  computeUs: number
  waitUs: number
  busyUs: number
  /** checksum of the rows. */
  crc: number
}

/** So many bytes of shared memory: those of a request at its offset, or those that answer a call. null where they are not there. */
export type ReadShm = (length: number, at: number) => Uint8Array | null
const noShm: ReadShm = () => null

/** Bytes a frame's message needs beyond its tensors, never more. */
export const FRAME_HEAD_BYTES = 1024

const MAX_MODEL_BYTES = 256
const MAX_MESSAGE_BYTES = 4096
const NOTHING = new Uint8Array(0)

/** CRC-32 of the rows of an answer, as ForwardResponse.crc carries it. */
export const checksum = (rows: TokenRows): number => checksumOf(bytesOfRows(rows))

const bytesOfRows = ({ rows, rowScale }: TokenRows): [Uint8Array, Uint8Array] => [
  bytesOf(rows),
  rowScale ? bytesOf(rowScale) : NOTHING,
]

const checksumOf = (parts: readonly Uint8Array[]): number => parts.reduce((crc, part) => crc32(part, crc), 0)

/** Bytes of the tensors of a frame on the wire. */
export const frameBytes = (frame: ExpertFrame): number =>
  rowBytes(frame) + frame.rowIndex.byteLength + frame.expert.byteLength

/** Bytes of the rows that answer a frame. */
export const replyBytes = ({ rowIndex, hidden, rowScale }: ExpertFrame): number =>
  rowIndex.length * (rowScale ? hidden + 4 : hidden * 4)

export const encodeRequest = (request: ForwardRequest): Buffer => {
  const { call, cancelCall, deadlineMs, frame, shmOffset } = request
  const model = Buffer.from(request.model)
  const tensors = frame ? tensorsOf(frame) : []
  const crc = checksumOf(tensors)
  const [rowIndex, expert, all, rowScale] = frame ? tensors : [NOTHING, NOTHING, NOTHING, NOTHING]
  const rows = shmOffset > 0 ? NOTHING : all
  const { layer, rowCount, hidden } = frame ?? { layer: 0, rowCount: 0, hidden: 0 }
  const numbers = [call, layer, rowCount, hidden, deadlineMs, cancelCall, shmOffset]
  const size =
    numbers.reduce((sum, number) => sum + numberSize(number), 0) +
    [model, rowIndex, expert, rows, rowScale].reduce((sum, bytes) => sum + bytesSize(bytes.length), 0) +
    fixedSize(crc)
  const cursor: Cursor = { bytes: Buffer.allocUnsafe(size), at: 0 }
  writeNumber(cursor, 1, call)
  writeBytes(cursor, 2, model)
  writeNumber(cursor, 3, layer)
  writeNumber(cursor, 4, rowCount)
  writeNumber(cursor, 5, hidden)
  writeNumber(cursor, 6, deadlineMs)
  writeNumber(cursor, 7, cancelCall)
  writeBytes(cursor, 8, rowIndex)
  writeBytes(cursor, 9, expert)
  writeBytes(cursor, 10, rows)
  writeBytes(cursor, 11, rowScale)
  writeFixed(cursor, 12, crc)
  writeNumber(cursor, 13, shmOffset)
  return cursor.bytes
}

/** In the order of the checksum. */
const tensorsOf = (frame: ExpertFrame): Uint8Array[] => [
  bytesOf(frame.rowIndex),
  bytesOf(frame.expert),
  ...bytesOfRows(frame),
]

/** `inShm`: the rows lie in shared memory, where the request wanted them. */
export const encodeResponse = (response: ForwardResponse, inShm = false): Buffer => {
  const { call, code, computeUs, waitUs, busyUs, crc } = response
  const message = Buffer.from(response.message).subarray(0, MAX_MESSAGE_BYTES)
  const [all, rowScale] = bytesOfRows(response)
  const rows = inShm ? NOTHING : all
  const shmBytes = inShm ? response.rows.byteLength : 0
  const size =
    [call, code, computeUs, waitUs, shmBytes].reduce((sum, number) => sum + numberSize(number), 0) +
    bytesSize(message.length) +
    bytesSize(rows.length) +
    fixedSize(crc)
  const padding = NOTHING_OF[paddingOf(size - rows.length)]
  const after = bytesSize(rowScale.length) + numberSize(busyUs)
  const cursor: Cursor = { bytes: Buffer.allocUnsafe(size + bytesSize(padding.length) + after), at: 0 }
  writeNumber(cursor, 1, call)
  writeNumber(cursor, 2, code)
  writeBytes(cursor, 3, message)
  writeNumber(cursor, 4, computeUs)
  writeNumber(cursor, 5, waitUs)
  writeFixed(cursor, 6, crc)
  writeBytes(cursor, 7, padding)
  writeBytes(cursor, 8, rows)
  writeNumber(cursor, 9, shmBytes)
  writeBytes(cursor, 10, rowScale)
  writeNumber(cursor, 11, busyUs)
  return cursor.bytes
}

/** Bytes that gRPC puts before a message, in the buffer that a receiver gets it in. */
const PREFIX_BYTES = 5
/** A padding field takes two bytes beside its own. */
const NOTHING_OF = [0, 3, 4, 1].map((bytes) => new Uint8Array(bytes))

/** How many bytes more would make the receiver's address of what follows `before` bytes a multiple of 4. */
const paddingOf = (before: number): number => (4 - ((before + PREFIX_BYTES) % 4)) % 4

/** The call number of a message that may be damaged otherwise; 0 when there is none to read. */
export const callOf = (bytes: Buffer): number => {
  let call = 0
  try {
    readFields(bytes, (field, type, value) => {
      if (field === 1 && type === VARINT && Number.isSafeInteger(value)) call = value
    })
  } catch {
    // What stood before the damage is the answer.
  }
  return call
}

/**
 * The tensors may be views of `bytes`. Nothing larger than the message is ever allocated, but rows in shared memory up to maxBytes.
 * @throws MeshError INVALID_ARGUMENT for a malformed or contradictory message, DATA_LOSS for a wrong checksum.
 */
export const decodeRequest = (bytes: Buffer, read = noShm, maxBytes = 0): ForwardRequest => {
  const fields = collect(bytes, [8, 9, 11])
  const cancelCall = fields.number(7)
  const head = {
    call: fields.number(1),
    model: fields.text(2, MAX_MODEL_BYTES),
    deadlineMs: fields.uint32(6, 'deadline_ms'),
    cancelCall,
    shmOffset: fields.number(13),
  }
  return { ...head, frame: cancelCall > 0 || isFence(fields) ? null : frameOf(fields, read, maxBytes) }
}

const isFence = (fields: Fields): boolean =>
  fields.number(1) > 0 && fields.number(4) === 0 && [2, 8, 9, 10, 11].every((field) => fields.bytes(field).length === 0)

const frameOf = (fields: Fields, read: ReadShm, maxBytes: number): ExpertFrame => {
  const layer = fields.uint32(3, 'layer')
  const rowCount = fields.uint32(4, 'row_count')
  const hidden = fields.uint32(5, 'hidden')
  const [rowIndex, expert, rowScale] = [fields.bytes(8), fields.bytes(9), fields.bytes(11)]
  const quantised = rowScale.length > 0
  if (rowCount === 0 || hidden === 0) throw invalid('a frame needs row_count and hidden of at least 1', 'row_count')
  if (rowIndex.length === 0) throw invalid('a frame needs at least one assignment', 'row_index')
  if (rowIndex.length !== expert.length) {
    throw invalid(`row_index has ${rowIndex.length / 4} entries and expert ${expert.length / 4}`, 'expert')
  }
  if (quantised && rowScale.length !== rowCount * 4) {
    throw invalid(`row_scale has ${rowScale.length / 4} entries for ${rowCount} rows`, 'row_scale')
  }
  const expected = rowCount * hidden * (quantised ? 1 : 4)
  const shmOffset = fields.number(13)
  if (shmOffset > 0 && expected > maxBytes)
    throw invalid(`rows of ${expected} bytes are more than the ${maxBytes} that a frame may have`, 'rows')
  const rows = shmOffset > 0 ? fromShm(expected, shmOffset, read, maxBytes) : fields.bytes(10)
  if (!rows) throw invalid('there is no shared memory with these rows; send them in the message', 'shm_offset')
  if (rows.length !== expected) {
    const kind = quantised ? 'uint8' : 'float32'
    throw invalid(`rows has ${rows.length} bytes where ${kind} [${rowCount},${hidden}] has ${expected}`, 'rows')
  }
  if (checksumOf([rowIndex, expert, rows, rowScale]) !== fields.crc(12)) {
    throw new MeshError(Code.DATA_LOSS, 'the frame was damaged on its way: its checksum does not match; send it again')
  }
  const frame = {
    layer,
    rowCount,
    hidden,
    rows: quantised ? rows : floatsOf(rows),
    rowScale: quantised ? floatsOf(rowScale) : null,
    rowIndex: integersOf(rowIndex),
    expert: integersOf(expert),
  }
  checkAssignments(frame)
  return frame
}

/** null where they are not there, or more than a frame may have. */
const fromShm = (length: number, at: number, read: ReadShm, maxBytes: number): Uint8Array | null =>
  length > maxBytes ? null : read(length, at)

const checkAssignments = ({ rowIndex, expert, rowCount }: ExpertFrame): void => {
  let last = 0
  for (let i = 0; i < rowIndex.length; i += 1) {
    if (rowIndex[i] >= rowCount) throw invalid(`row_index ${rowIndex[i]} is outside ${rowCount} rows`, 'row_index')
    if (expert[i] < last) throw invalid('assignments must ascend by expert', 'expert')
    last = expert[i]
  }
}

/**
 * `read` is told the call; maxBytes is the most it is asked for. rows may be a view of `bytes`.
 * @throws MeshError INVALID_ARGUMENT for a malformed message, DATA_LOSS for a wrong checksum or rows that are not in shared memory.
 */
export const decodeResponse = (bytes: Buffer, read = noShm, maxBytes = 0): ForwardResponse => {
  const fields = collect(bytes, [10])
  const crc = fields.crc(6)
  const rowScale = fields.bytes(10)
  const quantised = rowScale.length > 0
  const shmBytes = fields.number(9)
  const rows = shmBytes > 0 ? fromShm(shmBytes, fields.number(1), read, maxBytes) : fields.bytes(8)
  if (!rows) throw new MeshError(Code.DATA_LOSS, `the answer has no ${shmBytes} bytes in shared memory`)
  if (!quantised && rows.length % 4 !== 0)
    throw invalid(`rows has ${rows.length} bytes, not a whole number of float32`, 'rows')
  if (checksumOf([rows, rowScale]) !== crc) {
    throw new MeshError(Code.DATA_LOSS, 'the answer was damaged on its way: its checksum does not match')
  }
  return {
    call: fields.number(1),
    code: fields.uint32(2, 'code'),
    message: fields.text(3, MAX_MESSAGE_BYTES),
    computeUs: fields.uint32(4, 'compute_us'),
    waitUs: fields.uint32(5, 'wait_us'),
    busyUs: fields.uint32(11, 'busy_us'),
    rows: quantised ? bytesOf(rows) : floatsOf(rows),
    rowScale: quantised ? floatsOf(rowScale) : null,
    crc,
  }
}
