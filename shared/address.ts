import { isIP } from 'node:net'
import { Code, MeshError } from './errors.ts'

const ADDRESS_CHARACTERS_MAX = 256
const HOST_PORT = /^(?:\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d{1,5})$/

/** HOST:PORT or unix:PATH; nothing else that gRPC would resolve. */
export const isAddress = (text: string): boolean => {
  if (text.length > ADDRESS_CHARACTERS_MAX) return false
  const port = Number(HOST_PORT.exec(text)?.[1] ?? Number.NaN)
  return /^unix:.+/.test(text) || (port >= 0 && port <= 65_535)
}

/** The file of a unix socket's address; null for any other. */
export const socketOf = (address: string): string | null =>
  address.startsWith('unix:') ? address.replace(/^unix:(\/\/(?=\/))?/, '') : null

/** An address that a process listens on and nobody can dial: every interface of its machine. */
export const isUnspecified = (address: string): boolean => /^(0\.0\.0\.0|\[::\]):/.test(address)

/**
 * What a gateway dials to reach a worker that listens on `address` and called from `peer` (as gRPC tells it).
 * @throws MeshError INVALID_ARGUMENT when the two do not tell.
 */
export const dialledFrom = (address: string, peer: string): string => {
  if (!isUnspecified(address)) return address
  const host = /^\[?(.+?)\]?:\d+$/.exec(peer)?.[1] ?? ''
  const family = isIP(host)
  if (family === 0) {
    const cause = `nobody can dial ${address}, and the call does not show where it comes from`
    throw new MeshError(Code.INVALID_ARGUMENT, `${cause}: start the worker with --advertise HOST:PORT`)
  }
  return address.replace(/^(0\.0\.0\.0|\[::\])/, family === 6 ? `[${host}]` : host)
}
