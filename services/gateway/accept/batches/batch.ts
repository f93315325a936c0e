import { z } from 'zod'
import { Code, MeshError } from '../../../../shared/errors.ts'
import type { LineError } from './lines.ts'

export const endpoints = ['/v1/completions', '/v1/chat/completions'] as const
export type Endpoint = (typeof endpoints)[number]

const windowSeconds = 86_400
const metadataPairsMax = 16

/** The body of POST /v1/batches. */
export const batchBody = z.object({
  input_file_id: z.string().min(1),
  endpoint: z.enum(endpoints, { error: `must be ${endpoints.join(' or ')}` }),
  completion_window: z.literal('24h', { error: 'must be "24h"' }),
  metadata: z
    .record(
      z.string().max(64, 'keys have at most 64 characters'),
      z.string().max(512, 'values have at most 512 characters'),
    )
    .refine((metadata) => Object.keys(metadata).length <= metadataPairsMax, `has at most ${metadataPairsMax} pairs`)
    .nullish(),
})
export type BatchBody = z.infer<typeof batchBody>

export type Status =
  | 'validating'
  | 'failed'
  | 'in_progress'
  | 'finalizing'
  | 'completed'
  | 'expired'
  | 'cancelling'
  | 'cancelled'

/** OpenAI's batch object. Times are Unix seconds; what has not happened is absent. */
export type Batch = Readonly<{
  id: string
  object: 'batch'
  endpoint: Endpoint
  input_file_id: string
  completion_window: '24h'
  status: Status
  created_at: number
  expires_at: number
  in_progress_at?: number
  finalizing_at?: number
  completed_at?: number
  failed_at?: number
  expired_at?: number
  cancelling_at?: number
  cancelled_at?: number
  output_file_id?: string
  error_file_id?: string
  errors?: { object: 'list'; data: LineError[] }
  request_counts: { total: number; completed: number; failed: number }
  metadata: Record<string, string> | null
}>

/** The files of results that were written; a file without a line is not. */
export type Files = { output_file_id?: string; error_file_id?: string }

export type BatchEvent =
  /** Every line of its file is right. */
  | { kind: 'valid'; requests: number }
  | { kind: 'invalid'; errors: LineError[] }
  /** A request has its one result. */
  | { kind: 'answered'; failed: boolean }
  /** Somebody asks for its end. */
  | { kind: 'cancel' }
  /** No request is under way any more, and the results there are have been written. */
  | { kind: 'settled'; files: Files }

export const openBatch = (id: string, body: BatchBody, nowSeconds: number): Batch => ({
  id,
  object: 'batch',
  endpoint: body.endpoint,
  input_file_id: body.input_file_id,
  completion_window: body.completion_window,
  status: 'validating',
  created_at: nowSeconds,
  expires_at: nowSeconds + windowSeconds,
  request_counts: { total: 0, completed: 0, failed: 0 },
  metadata: body.metadata ?? null,
})

const ended = new Set<Status>(['failed', 'completed', 'expired', 'cancelled'])
export const hasEnded = ({ status }: Batch): boolean => ended.has(status)

/** Past its window, it takes no more requests and is to be settled. */
export const isOverdue = (batch: Batch, nowSeconds: number): boolean =>
  !hasEnded(batch) && nowSeconds >= batch.expires_at

const refuse = (batch: Batch, what: string): never => {
  throw new MeshError(Code.FAILED_PRECONDITION, `Batch ${batch.id} is ${batch.status}: it cannot ${what}.`)
}

const validated = (batch: Batch, total: number, now: number): Batch => {
  const counted = { ...batch, request_counts: { ...batch.request_counts, total } }
  if (batch.status === 'cancelling') return counted
  if (batch.status !== 'validating') return refuse(batch, 'begin')
  return { ...counted, status: 'in_progress', in_progress_at: now }
}

const answered = (batch: Batch, failed: boolean, now: number): Batch => {
  if (batch.status !== 'in_progress' && batch.status !== 'cancelling') return refuse(batch, 'take another result')
  const { total, ...counts } = batch.request_counts
  counts[failed ? 'failed' : 'completed'] += 1
  const left = total - counts.completed - counts.failed
  if (left < 0) return refuse(batch, `take more results than its ${total} requests`)
  const counted = { ...batch, request_counts: { total, ...counts } }
  const last = batch.status === 'in_progress' && left === 0
  return last ? { ...counted, status: 'finalizing', finalizing_at: now } : counted
}

const settled = (batch: Batch, files: Files, now: number): Batch => {
  if (batch.status === 'finalizing') return { ...batch, ...files, status: 'completed', completed_at: now }
  if (batch.status === 'cancelling') return { ...batch, ...files, status: 'cancelled', cancelled_at: now }
  if (isOverdue(batch, now)) return { ...batch, ...files, status: 'expired', expired_at: now }
  return refuse(batch, 'be settled')
}

/**
 * The batch after the event. validating → in_progress → finalizing → completed; from validating to failed; from validating
 * and in_progress to cancelling → cancelled; and to expired where its window ends first. Cancelling twice is cancelling once.
 * @throws MeshError FAILED_PRECONDITION for what cannot happen to a batch in its status.
 */
export const advance = (batch: Batch, event: BatchEvent, nowSeconds: number): Batch => {
  switch (event.kind) {
    case 'valid':
      return validated(batch, event.requests, nowSeconds)
    case 'invalid': {
      if (batch.status === 'cancelling') return batch
      if (batch.status !== 'validating') return refuse(batch, 'fail')
      const errors = { object: 'list', data: event.errors } as const
      return { ...batch, status: 'failed', failed_at: nowSeconds, errors }
    }
    case 'answered':
      return answered(batch, event.failed, nowSeconds)
    case 'cancel':
      if (batch.status === 'cancelling') return batch
      if (batch.status !== 'validating' && batch.status !== 'in_progress') return refuse(batch, 'be cancelled')
      return { ...batch, status: 'cancelling', cancelling_at: nowSeconds }
    case 'settled':
      return settled(batch, event.files, nowSeconds)
  }
}
