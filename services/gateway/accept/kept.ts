import { packRequest, unpackRequest } from '../journal/record.ts'
import type { Work } from './request.ts'

/** What any gateway must know of an accepted request to tell of it. */
export type Kept = {
  work: Work
  /** Unix seconds of its acceptance. */
  created: number
  /** Unix ms after which nobody waits for it; null: never. */
  deadlineAt: number | null
  /** Who sent it. */
  tenant: string
}

/** The part of a request's id that x-request-id tells: of cmpl-ID, chatcmpl-ID and gen-ID. */
export const requestIdOf = (id: string): string => id.replace(/^(cmpl|chatcmpl|gen)-/, '')

export const packKept = (kept: Kept): string =>
  JSON.stringify({ ...kept, work: { ...kept.work, requests: kept.work.requests.map(packRequest) } })

export const unpackKept = (text: string): Kept => {
  const kept = JSON.parse(text)
  return { ...kept, work: { ...kept.work, requests: kept.work.requests.map(unpackRequest) } }
}
