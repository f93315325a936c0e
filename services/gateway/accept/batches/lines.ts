import { z } from 'zod'
import { Code, invalid, MeshError } from '../../../../shared/errors.ts'
import { checked } from '../fields.ts'
import type { Endpoint } from './batch.ts'
import { openBreath } from './breath.ts'

/** OpenAI's own limit. */
export const linesMax = 50_000
/** Errors told of one file: who has more reads them after the next upload. */
export const errorsMax = 100
export const customIdCharactersMax = 512

/** One request of a batch. */
export type BatchLine = { customId: string; body: Record<string, unknown> }

/** What is wrong with a file, as batch.errors tells it: `line` counts from 1 and is null where the file as a whole is meant. */
export type LineError = { code: string; message: string; param: string | null; line: number | null }

const line = z.object({
  custom_id: z
    .string()
    .min(1, 'must not be empty')
    .max(customIdCharactersMax, `has at most ${customIdCharactersMax} characters`),
  method: z.literal('POST', { error: 'must be POST' }),
  url: z.string(),
  body: z.record(z.string(), z.unknown(), { error: 'must be the body of a request, a JSON object' }),
})

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new MeshError(Code.INVALID_ARGUMENT, `This line is not JSON: ${(cause as Error).message}.`, {
      cause,
      reason: 'invalid_json_line',
    })
  }
}

const readLine = (text: string, endpoint: Endpoint, check: (body: unknown) => void): BatchLine => {
  const { custom_id, url, body } = checked(line, parse(text))
  if (url !== endpoint)
    throw new MeshError(Code.INVALID_ARGUMENT, `url is ${url}, and this batch is for ${endpoint}.`, {
      param: 'url',
      reason: 'mismatched_url',
    })
  if (body.stream) throw invalid('A batch has nobody to stream to: leave out stream.', 'body.stream')
  check(body)
  return { customId: custom_id, body }
}

/** An error of the file as a whole. */
export const whole = (code: string, message: string): LineError => ({ code, message, param: null, line: null })

/**
 * The requests of an uploaded file, a JSON object a line; lines of white space are skipped. `check` throws a MeshError where
 * the endpoint would refuse a body. A file with errors, of which the first hundred are told, has no requests.
 */
export const readLines = async (
  text: string,
  endpoint: Endpoint,
  check: (body: unknown) => void,
): Promise<{ lines: BatchLine[]; errors: LineError[] }> => {
  const breathe = openBreath()
  const lines: BatchLine[] = []
  const errors: LineError[] = []
  const firstAt = new Map<string, number>()
  for (const [index, written] of text.split('\n').entries()) {
    await breathe()
    if (written.trim() === '') continue
    if (lines.length + errors.length === linesMax) {
      errors.push(whole('too_many_requests', `The file has more than ${linesMax} requests: send several batches.`))
      break
    }
    try {
      const read = readLine(written, endpoint, check)
      const before = firstAt.get(read.customId)
      if (before !== undefined)
        throw new MeshError(Code.INVALID_ARGUMENT, `custom_id ${read.customId} is that of line ${before} already.`, {
          param: 'custom_id',
          reason: 'duplicate_custom_id',
        })
      firstAt.set(read.customId, index + 1)
      lines.push(read)
    } catch (thrown) {
      if (!(thrown instanceof MeshError)) throw thrown
      const { message, param, reason } = thrown
      errors.push({ code: reason ?? 'invalid_request', message, param, line: index + 1 })
      if (errors.length === errorsMax) break
    }
  }
  if (lines.length === 0 && errors.length === 0) errors.push(whole('empty_file', 'The file has no request.'))
  return { lines: errors.length > 0 ? [] : lines, errors }
}
