import { Code, MeshError } from '../../../../shared/errors.ts'
import { type Archive, archiveFull, keepSeconds, type Verdict } from './archive.ts'

/** Characters of a file in one part of it. */
const partCharacters = 2 ** 18
/** A file that takes longer than this to write has been given up. */
const writeLimitMs = 3_600_000

/** OpenAI's file object. Times are Unix seconds. */
export type FileRecord = {
  id: string
  object: 'file'
  bytes: number
  created_at: number
  expires_at: number
  filename: string
  purpose: 'batch' | 'batch_output'
  status: 'processed'
}

export type NewFile = Pick<FileRecord, 'id' | 'filename' | 'purpose'> & { tenant: string }

/** Texts of any length as parts of one length; no character is cut in two. The same text always makes the same parts. */
export async function* partsOf(texts: Iterable<string> | AsyncIterable<string>): AsyncGenerator<string> {
  let held = ''
  for await (const text of texts) {
    held += text
    let begin = 0
    while (held.length - begin > partCharacters) {
      const half = /[\ud800-\udbff]/.test(held[begin + partCharacters - 1])
      const end = begin + partCharacters - (half ? 1 : 0)
      yield held.slice(begin, end)
      begin = end
    }
    held = held.slice(begin)
  }
  if (held !== '') yield held
}

const done = (verdict: Verdict): void => {
  if (verdict === 'full') throw archiveFull()
  if (verdict !== 'changed') throw new MeshError(Code.UNAVAILABLE, 'The file was removed while it was written.')
}

/**
 * Writes a file; nobody sees it before it is whole. Writing a file of the same id and text again, or at the same time, is harmless.
 * @throws MeshError RESOURCE_EXHAUSTED where it is bounded and there is no room.
 */
export const saveFile = async (
  archive: Archive,
  { tenant, ...file }: NewFile,
  texts: Iterable<string> | AsyncIterable<string>,
  bounded: boolean,
): Promise<FileRecord> => {
  const { id } = file
  const item = { id, kind: 'file', tenant, state: 'hidden', body: '', expiresAtMs: Date.now() + writeLimitMs } as const
  if (!(await archive.add(item, bounded))) throw archiveFull()
  try {
    let [bytes, count] = [0, 0]
    for await (const text of partsOf(texts)) {
      done(await archive.change(id, { parts: [[String(count++), text]], bounded }))
      bytes += Buffer.byteLength(text)
    }
    const created_at = Math.floor(Date.now() / 1000)
    const expires_at = created_at + keepSeconds
    const record: FileRecord = { ...file, object: 'file', bytes, created_at, expires_at, status: 'processed' }
    const body = JSON.stringify(record)
    done(await archive.change(id, { body, state: 'kept', expiresAtMs: expires_at * 1000 }))
    return record
  } catch (error) {
    if (bounded) await archive.remove(id)
    throw error
  }
}

/** null where there is none that this tenant may see. */
export const findFile = async (archive: Archive, id: string, tenant: string): Promise<FileRecord | null> => {
  const found = await archive.find(id)
  if (found?.kind !== 'file' || found.state === 'hidden' || found.tenant !== tenant) return null
  return JSON.parse(found.body) as FileRecord
}

/** The text of a file, part by part. @throws MeshError NOT_FOUND where it is removed meanwhile. */
export async function* contentOf(archive: Archive, { id, bytes }: FileRecord): AsyncGenerator<string> {
  let read = 0
  for (let at = 0; read < bytes; at++) {
    const [text] = await archive.parts(id, [String(at)])
    if (text === null) throw new MeshError(Code.NOT_FOUND, `The file ${id} was removed while it was read.`)
    read += Buffer.byteLength(text)
    yield text
  }
}
