import { expect, test } from 'vitest'
import { Code } from '../../shared/errors.ts'
import { checksum, decodeRequest, decodeResponse, encodeRequest, encodeResponse } from '../../shared/frame.ts'
import { bytesOf } from '../../shared/wire.ts'

const frame = {
  layer: 1,
  rowCount: 2,
  hidden: 3,
  rows: Float32Array.of(1, 2, 3, 4, 5, 6),
  rowScale: null,
  rowIndex: Uint32Array.of(0, 1, 1),
  expert: Uint32Array.of(4, 5, 5),
}
const request = { call: 7, model: 'm', deadlineMs: 0, cancelCall: 0, frame, shmOffset: 2 ** 33 }
const rows = Float32Array.of(6, 5, 4)
const answer = { rows, rowScale: null }
const response = { call: 7, code: 0, message: '', computeUs: 1, waitUs: 2, busyUs: 3, ...answer, crc: checksum(answer) }

/** Memory that holds these values, and nothing else, there. */
const memory =
  (values: Float32Array, there: number) =>
  (length: number, at: number): Uint8Array | null =>
    at === there && length === values.byteLength ? bytesOf(values) : null

const nothing = (): null => null
const zeros = (length: number): Uint8Array => new Uint8Array(length)

test('rows are read from where the request says they lie, and not in the message', () => {
  const bytes = encodeRequest(request)
  expect(bytes.length).toBeLessThan(encodeRequest({ ...request, shmOffset: 0 }).length)
  expect(decodeRequest(bytes, memory(frame.rows, request.shmOffset), 24)).toEqual(request)
})

test('an answer is read from where its call wanted it', () => {
  const bytes = encodeResponse(response, true)
  expect(bytes.length).toBeLessThan(encodeResponse(response).length)
  expect(decodeResponse(bytes, memory(rows, response.call), 12)).toEqual(response)
})

const refused = (code: Code) => expect.objectContaining({ code })

test('a request whose rows are not there, or not they, or too many, is refused', () => {
  const bytes = encodeRequest(request)
  expect(() => decodeRequest(bytes)).toThrow(refused(Code.INVALID_ARGUMENT))
  expect(() => decodeRequest(bytes, nothing, 24)).toThrow(refused(Code.INVALID_ARGUMENT))
  expect(() => decodeRequest(bytes, zeros, 23)).toThrow(refused(Code.INVALID_ARGUMENT))
  expect(() => decodeRequest(bytes, zeros, 24)).toThrow(refused(Code.DATA_LOSS))
})

test('an answer whose rows are not there, or not they, or too many, is data loss', () => {
  const bytes = encodeResponse(response, true)
  expect(() => decodeResponse(bytes)).toThrow(refused(Code.DATA_LOSS))
  expect(() => decodeResponse(bytes, nothing, 12)).toThrow(refused(Code.DATA_LOSS))
  expect(() => decodeResponse(bytes, zeros, 11)).toThrow(refused(Code.DATA_LOSS))
  expect(() => decodeResponse(bytes, zeros, 12)).toThrow(refused(Code.DATA_LOSS))
})
