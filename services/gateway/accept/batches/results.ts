import type { Batch } from './batch.ts'
import type { BatchLine } from './lines.ts'

/** The one result of a request: what HTTP would have answered. */
export type Result = { requestId: string; status: number; body: unknown }

/** A line of a file of results. */
export type ResultLine = {
  id: string
  custom_id: string
  response: { status_code: number; request_id: string; body: unknown } | null
  error: { code: string; message: string } | null
}

const answeredLine = (batch: Batch, customId: string, at: number, { requestId, status, body }: Result): ResultLine => ({
  id: `${batch.id}_req_${at}`,
  custom_id: customId,
  response: { status_code: status, request_id: requestId, body },
  error: null,
})

const unanswered = {
  cancelling: { code: 'batch_cancelled', message: 'The batch was cancelled before this request was answered.' },
  other: { code: 'batch_expired', message: 'The batch expired before this request was answered.' },
}

const unansweredLine = (batch: Batch, customId: string, at: number): ResultLine => ({
  id: `${batch.id}_req_${at}`,
  custom_id: customId,
  response: null,
  error: batch.status === 'cancelling' ? unanswered.cancelling : unanswered.other,
})

export const isFailed = ({ status }: Result): boolean => status >= 400

/**
 * The texts of the two files of a batch whose work is over, in the order of its requests: successes in `output`, failures and
 * requests without a result in `error`. `lines` may be a part of them, the first of which is its `first`-th request.
 */
export const writeResults = (
  batch: Batch,
  lines: readonly BatchLine[],
  resultOf: (customId: string) => Result | null,
  first = 0,
): { output: string; error: string } => {
  const texts = { output: '', error: '' }
  for (const [at, { customId }] of lines.entries()) {
    const result = resultOf(customId)
    const line = result
      ? answeredLine(batch, customId, first + at, result)
      : unansweredLine(batch, customId, first + at)
    texts[result && !isFailed(result) ? 'output' : 'error'] += `${JSON.stringify(line)}\n`
  }
  return texts
}
