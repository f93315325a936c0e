/**
 * The part of the protobuf encoding that frames need (protobuf.dev/programming-guides/encoding): tags, varints, fixed32
 * and length-delimited fields. Reading hands out positions, so that a hostile message costs no memory beyond itself.
 */
import assert from 'node:assert/strict'
import { endianness } from 'node:os'
import { invalid } from './errors.ts'

assert(endianness() === 'LE', 'tensors are little-endian on the wire and are not swapped')

export const VARINT = 0
export const FIXED64 = 1
export const BYTES = 2
export const FIXED32 = 5

const MAX_VARINT_BYTES = 10

/** A buffer and the position of its next byte, for reading or writing. */
export type Cursor = { readonly bytes: Buffer; at: number }

/** Called per field occurrence. VARINT: value is the number and end is 0; otherwise the field's bytes are [value, end). */
export type OnField = (field: number, type: number, value: number, end: number) => void

/** @throws MeshError INVALID_ARGUMENT when the message is cut short or not protobuf. */
export const readFields = (bytes: Buffer, onField: OnField): void => {
  const cursor = { bytes, at: 0 }
  while (cursor.at < bytes.length) {
    const tag = readVarint(cursor)
    const field = Math.floor(tag / 8)
    if (field === 0) throw invalid('the message is not protobuf: field number 0')
    const type = tag % 8
    if (type === VARINT) {
      onField(field, type, readVarint(cursor), 0)
      continue
    }
    const length = lengthOf(type, cursor)
    const end = cursor.at + length
    if (end > bytes.length) throw invalid(`the message ends inside field ${field}`)
    onField(field, type, cursor.at, end)
    cursor.at = end
  }
}

const lengthOf = (type: number, cursor: Cursor): number => {
  if (type === BYTES) return readVarint(cursor)
  if (type === FIXED32) return 4
  if (type === FIXED64) return 8
  throw invalid(`the message is not protobuf: wire type ${type}`)
}

/** Values up to 2^53 − 1 come out exact, larger ones as a number ≥ 2^53. */
const readVarint = (cursor: Cursor): number => {
  let value = 0
  let scale = 1
  for (let count = 0; count < MAX_VARINT_BYTES; count += 1) {
    if (cursor.at >= cursor.bytes.length) throw invalid('the message ends inside a number')
    const byte = cursor.bytes[cursor.at]
    cursor.at += 1
    value += (byte & 127) * scale
    if (byte < 128) return value
    scale *= 128
  }
  throw invalid('the message is not protobuf: a number longer than ten bytes')
}

export const varintSize = (value: number): number => {
  let size = 1
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) size += 1
  return size
}

export const writeVarint = (cursor: Cursor, value: number): void => {
  assert(Number.isSafeInteger(value) && value >= 0)
  let rest = value
  while (rest >= 128) {
    cursor.bytes[cursor.at] = (rest % 128) | 128
    cursor.at += 1
    rest = Math.floor(rest / 128)
  }
  cursor.bytes[cursor.at] = rest
  cursor.at += 1
}

/** Bytes of a field with a one-byte tag (numbers below 16); a zero number and an empty byte string are left out, as proto3 does. */
export const numberSize = (value: number): number => (value === 0 ? 0 : 1 + varintSize(value))
export const fixedSize = (value: number): number => (value === 0 ? 0 : 5)
export const bytesSize = (length: number): number => (length === 0 ? 0 : 1 + varintSize(length) + length)

export const writeNumber = (cursor: Cursor, field: number, value: number): void => {
  if (value === 0) return
  writeTag(cursor, field, VARINT)
  writeVarint(cursor, value)
}

export const writeFixed = (cursor: Cursor, field: number, value: number): void => {
  if (value === 0) return
  writeTag(cursor, field, FIXED32)
  cursor.at = cursor.bytes.writeUInt32LE(value, cursor.at)
}

export const writeBytes = (cursor: Cursor, field: number, value: Uint8Array): void => {
  if (value.length === 0) return
  writeTag(cursor, field, BYTES)
  writeVarint(cursor, value.length)
  cursor.bytes.set(value, cursor.at)
  cursor.at += value.length
}

const writeTag = (cursor: Cursor, field: number, type: number): void => {
  assert(field > 0 && field < 16)
  cursor.bytes[cursor.at] = field * 8 + type
  cursor.at += 1
}

/** The bytes under a typed array, without a copy. */
export const bytesOf = (values: Float32Array | Uint32Array | Uint8Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

/** Little-endian float32 values: a view where the address allows it, else a copy. */
export const floatsOf = (bytes: Uint8Array): Float32Array => {
  const { buffer, byteOffset, byteLength } = alignedTo4(bytes)
  return new Float32Array(buffer, byteOffset, byteLength / 4)
}

/** Little-endian uint32 values: a view where the address allows it, else a copy. */
export const integersOf = (bytes: Uint8Array): Uint32Array => {
  const { buffer, byteOffset, byteLength } = alignedTo4(bytes)
  return new Uint32Array(buffer, byteOffset, byteLength / 4)
}

const alignedTo4 = (bytes: Uint8Array): Uint8Array => (bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes))
