import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { z } from 'zod'
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import type { Fault, Heard } from './answer.ts'

/** The right answers, by the digest of the request's key. */
export type Golden = Map<string, { ids: readonly number[]; logitsSha256: string | null }>

const goldenFile = z.object({
  format: z.literal('expertmesh-golden-1', { error: 'is not what --write-golden writes' }),
  answers: z.record(z.string(), z.object({ ids: z.array(z.int().min(0)), logits_sha256: z.string().nullable() })),
})

const digest = (key: string): string => createHash('sha256').update(key).digest('hex')

/** @throws MeshError FAILED_PRECONDITION where the server returned no ids. */
export const remember = (golden: Golden, key: string, { ids, logitsSha256 }: Readonly<Heard>): void => {
  if (ids === null)
    throw new MeshError(
      Code.FAILED_PRECONDITION,
      'this server returns no token ids, so its tokens cannot be checked: leave out --check',
    )
  golden.set(digest(key), { ids: [...ids], logitsSha256 })
}

/** What differs between the answer and the right one; null: nothing. */
export const compare = (golden: Golden, key: string, { ids, logitsSha256 }: Readonly<Heard>): Fault | null => {
  const right = golden.get(digest(key))
  const wrong = (message: string): Fault => ({ kind: 'wrong', message, again: false })
  if (!right) return wrong('the golden file has no answer to this request')
  const at = right.ids.findIndex((id, index) => ids?.[index] !== id)
  if (at >= 0) return wrong(`token ${at} is ${ids?.[at] ?? 'missing'} and should be ${right.ids[at]}`)
  if (ids?.length !== right.ids.length) return wrong(`${ids?.length} tokens came and should be ${right.ids.length}`)
  if (logitsSha256 !== right.logitsSha256)
    return wrong(`logits_sha256 is ${logitsSha256} and should be ${right.logitsSha256}`)
  return null
}

export const writeGolden = (file: string, golden: Golden): void => {
  const answers = [...golden].map(([key, { ids, logitsSha256 }]) => [key, { ids, logits_sha256: logitsSha256 }])
  writeFileSync(file, `${JSON.stringify({ format: 'expertmesh-golden-1', answers: Object.fromEntries(answers) })}\n`)
}

/** @throws MeshError NOT_FOUND, or INVALID_ARGUMENT for a file that --write-golden did not write. */
export const readGolden = (file: string): Golden => {
  let json: unknown
  try {
    json = JSON.parse(readFileSync(file, 'utf8'))
  } catch (cause) {
    throw new MeshError(Code.NOT_FOUND, `cannot read the golden file ${file}: ${(cause as Error).message}`, { cause })
  }
  const parsed = goldenFile.safeParse(json)
  if (!parsed.success) {
    const [{ path, message }] = parsed.error.issues
    throw invalid(`${file}: ${path.join('.')} ${message}`)
  }
  return new Map(
    Object.entries(parsed.data.answers).map(([key, { ids, logits_sha256 }]) => [
      key,
      { ids, logitsSha256: logits_sha256 },
    ]),
  )
}
