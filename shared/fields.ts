import { invalid } from './errors.ts'
import { BYTES, FIXED32, readFields, VARINT } from './wire.ts'

const MAX_UINT32 = 2 ** 32 - 1
/** Fields beyond this number are from a later version and are skipped. */
const MAX_FIELD = 15

/** A message's fields by number; the last occurrence counts, and absent ones are 0 or empty. */
export type Fields = {
  number(field: number): number
  uint32(field: number, name: string): number
  crc(field: number): number
  text(field: number, maxBytes: number): string
  bytes(field: number): Buffer
}

type Span = { start: number; end: number; pieces: number; total: number }

/** `repeated` are fields of 4-byte elements, packed, unpacked or both at once. Fields nobody asks for are skipped. */
export const collect = (bytes: Buffer, repeated: readonly number[]): Fields => {
  const numbers = new Map<number, number>()
  const spans = new Map<number, Span>()
  readFields(bytes, (field, type, value, end) => {
    if (field > MAX_FIELD) return
    if (type === VARINT) numbers.set(field, value)
    else if (repeated.includes(field)) addPiece(spans, field, type, value, end)
    else spans.set(field, { start: value, end, pieces: 1, total: end - value })
  })
  const bytesOfField = (field: number): Buffer => {
    const span = spans.get(field)
    if (!span) return bytes.subarray(0, 0)
    return span.pieces === 1 ? bytes.subarray(span.start, span.end) : joined(bytes, field, span.total)
  }
  const number = (field: number): number => {
    const value = numbers.get(field) ?? 0
    if (!Number.isSafeInteger(value)) throw invalid(`field ${field} is too large`)
    return value
  }
  return {
    number,
    uint32: (field, name) => {
      const value = number(field)
      if (value > MAX_UINT32) throw invalid(`${name} is too large`, name)
      return value
    },
    crc: (field) => {
      const crc = bytesOfField(field)
      if (crc.length !== 4 && crc.length !== 0) throw invalid('crc must be a fixed32', 'crc')
      return crc.length === 4 ? crc.readUInt32LE() : 0
    },
    text: (field, maxBytes) => {
      const text = bytesOfField(field)
      if (text.length > maxBytes) throw invalid(`field ${field} is longer than ${maxBytes} bytes`)
      return text.toString()
    },
    bytes: bytesOfField,
  }
}

const addPiece = (spans: Map<number, Span>, field: number, type: number, start: number, end: number): void => {
  if (type !== FIXED32 && type !== BYTES) throw invalid(`field ${field} has wire type ${type}`)
  if ((end - start) % 4 !== 0) throw invalid(`field ${field} is not a whole number of 4-byte elements`)
  const before = spans.get(field)
  const total = (before?.total ?? 0) + end - start
  spans.set(field, { start, end, pieces: (before?.pieces ?? 0) + 1, total })
}

/** A repeated field that came in several pieces, in one. */
const joined = (bytes: Buffer, wanted: number, total: number): Buffer => {
  const whole = Buffer.allocUnsafeSlow(total)
  let at = 0
  readFields(bytes, (field, type, start, end) => {
    if (field === wanted && type !== VARINT) at += bytes.copy(whole, at, start, end)
  })
  return whole
}
