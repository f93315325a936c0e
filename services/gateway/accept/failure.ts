import { Code, MeshError } from '../../../shared/errors.ts'

/** What to wait before trying again where nothing better is known: about the time a short request takes. */
const retryAfterSeconds = 1
/** Answers that a later try may change. */
const passing = new Set([429, 503])

const statuses: Record<Code, number> = {
  [Code.CANCELLED]: 499,
  [Code.INVALID_ARGUMENT]: 400,
  [Code.DEADLINE_EXCEEDED]: 504,
  [Code.NOT_FOUND]: 404,
  [Code.RESOURCE_EXHAUSTED]: 429,
  [Code.FAILED_PRECONDITION]: 400,
  [Code.UNIMPLEMENTED]: 501,
  [Code.INTERNAL]: 500,
  [Code.UNAVAILABLE]: 503,
  [Code.DATA_LOSS]: 500,
  [Code.UNAUTHENTICATED]: 401,
}

const kindOf = (status: number): string => {
  if (status === 401) return 'authentication_error'
  if (status === 429) return 'rate_limit_error'
  return status < 500 ? 'invalid_request_error' : 'server_error'
}

/** What the HTTP server itself refuses, in the words of this API. */
const refusals: Record<string, { reason: string; message(sent: string): string }> = {
  FST_ERR_CTP_BODY_TOO_LARGE: { reason: 'body_too_large', message: (sent) => `${sent}: send a smaller one.` },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: {
    reason: 'unsupported_media_type',
    message: (sent) => `${sent}: send application/json.`,
  },
}

export type Failure = {
  status: number
  headers: Record<string, string>
  /** OpenAI's error schema. */
  body: { error: { message: string; type: string; param: string | null; code: string | null } }
}

const failureOf = (
  status: number,
  message: string,
  param: string | null,
  code: string | null,
  afterSeconds = retryAfterSeconds,
): Failure => ({
  status,
  headers: passing.has(status) ? { 'retry-after': String(afterSeconds) } : {},
  body: { error: { message, type: kindOf(status), param, code } },
})

/**
 * The one place where a throw becomes an HTTP answer. A MeshError keeps its sentence, what the HTTP server refuses keeps
 * its status, and anything else is a 500 that gives nothing away.
 */
export const toFailure = (thrown: unknown): Failure => {
  if (thrown instanceof MeshError) {
    const status = statuses[thrown.code]
    return failureOf(status, thrown.message, thrown.param, thrown.reason, thrown.retryAfterSeconds ?? undefined)
  }
  if (thrown instanceof Error && 'statusCode' in thrown && typeof thrown.statusCode === 'number') {
    const refusal = refusals['code' in thrown ? String(thrown.code) : '']
    if (thrown.statusCode < 500)
      return failureOf(
        thrown.statusCode,
        refusal?.message(thrown.message) ?? thrown.message,
        null,
        refusal?.reason ?? null,
      )
  }
  return failureOf(500, 'The gateway failed on this request; its log says why.', null, 'internal_error')
}
