import type OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import {
  advance,
  type Batch,
  type BatchEvent,
  batchBody,
  hasEnded,
  isOverdue,
  openBatch,
  type Status,
} from '../../../../../services/gateway/accept/batches/batch.ts'
import { checked } from '../../../../../services/gateway/accept/fields.ts'
import { seeded } from '../../../../support/random.ts'

const body = { input_file_id: 'file-1', endpoint: '/v1/completions', completion_window: '24h' } as const
const dayS = 86_400
const fresh = openBatch('batch_1', body, 1_000)
const run = (events: readonly BatchEvent[], batch: Batch = fresh): Batch =>
  events.reduce((state, event, at) => advance(state, event, 1_001 + at), batch)

const valid = (requests: number): BatchEvent => ({ kind: 'valid', requests })
const done: BatchEvent = { kind: 'answered', failed: false }
const failed: BatchEvent = { kind: 'answered', failed: true }
const cancel: BatchEvent = { kind: 'cancel' }
const settled: BatchEvent = { kind: 'settled', files: { output_file_id: 'file-2' } }
const errors = [{ code: 'invalid_json_line', message: 'm', param: null, line: 4 }]

describe('a batch', () => {
  it('goes from validating over in_progress and finalizing to completed, and tells when', () => {
    const batch: OpenAI.Batch = run([valid(2), failed, done, settled])
    expect(batch).toEqual({
      ...body,
      id: 'batch_1',
      object: 'batch',
      status: 'completed',
      created_at: 1_000,
      expires_at: 1_000 + dayS,
      in_progress_at: 1_001,
      finalizing_at: 1_003,
      completed_at: 1_004,
      output_file_id: 'file-2',
      request_counts: { total: 2, completed: 1, failed: 1 },
      metadata: null,
    })
  })

  it('fails with the errors of its file', () => {
    expect(run([{ kind: 'invalid', errors }])).toMatchObject({
      status: 'failed',
      failed_at: 1_001,
      errors: { object: 'list', data: errors },
    })
  })

  it('is cancelled once what is under way has ended, with the results there are', () => {
    const cancelling = run([valid(3), done, cancel])
    expect(cancelling).toMatchObject({ status: 'cancelling', cancelling_at: 1_003 })
    expect(run([done, cancel, settled], cancelling)).toMatchObject({
      status: 'cancelled',
      cancelled_at: 1_003,
      output_file_id: 'file-2',
      request_counts: { total: 3, completed: 2, failed: 0 },
    })
  })

  it('cancelled while it is validated, is so whatever the file says', () => {
    expect(run([cancel, valid(2), settled]).status).toBe('cancelled')
    expect(run([cancel, { kind: 'invalid', errors }, settled]).status).toBe('cancelled')
  })

  it('expires at the end of its window, with the results there are', () => {
    const late = run([valid(2), done])
    expect(isOverdue(late, 999 + dayS)).toBe(false)
    expect(isOverdue(late, 1_000 + dayS)).toBe(true)
    expect(() => advance(late, settled, 999 + dayS)).toThrow('in_progress')
    expect(advance(late, settled, 1_000 + dayS)).toMatchObject({ status: 'expired', expired_at: 1_000 + dayS })
    expect(advance(fresh, settled, 1_000 + dayS).status).toBe('expired')
  })

  /** Which statuses may follow, by hand. */
  const next: Record<Status, readonly Status[]> = {
    validating: ['validating', 'in_progress', 'failed', 'cancelling', 'expired'],
    in_progress: ['in_progress', 'finalizing', 'cancelling', 'expired'],
    finalizing: ['finalizing', 'completed'],
    cancelling: ['cancelling', 'cancelled'],
    failed: [],
    completed: [],
    expired: [],
    cancelled: [],
  }
  const stamp = (status: Status): keyof Batch => (status === 'validating' ? 'created_at' : `${status}_at`)

  it('never leaves these ways or counts too much, whatever happens in whatever order', () => {
    const random = seeded(8)
    const seen = new Set([fresh.status])
    for (let round = 0; round < 500; round++) {
      const events = [
        valid(1 + random(3)),
        done,
        failed,
        done,
        failed,
        cancel,
        settled,
        { kind: 'invalid', errors } as const,
      ]
      let batch = fresh
      let now = 1_000
      for (let step = 0; step < 14; step++) {
        now += random(20) === 0 ? dayS : 1
        const before = batch
        try {
          batch = advance(batch, events[random(events.length)], now)
        } catch (thrown) {
          expect((thrown as Error).message).toMatch(/^Batch batch_1 is [a-z_]+: it cannot /)
          continue
        }
        seen.add(batch.status)
        expect(next[before.status]).toContain(batch.status)
        if (batch.status !== before.status) expect(batch[stamp(batch.status)]).toBe(now)
        const { total, completed, failed: wrong } = batch.request_counts
        expect(completed + wrong).toBeLessThanOrEqual(total)
        if (batch.status === 'in_progress') expect(completed + wrong).toBeLessThan(total)
        if (batch.status === 'completed') expect(completed + wrong).toBe(total)
        expect(hasEnded(batch)).toBe(next[batch.status].length === 0)
      }
    }
    expect([...seen].sort()).toEqual(Object.keys(next).sort())
  })
})

describe('what asks for a batch', () => {
  it('is as the official client sends it', () => {
    const sent: OpenAI.BatchCreateParams = { ...body, metadata: { project: 'x' } }
    expect(checked(batchBody, sent)).toEqual(sent)
  })

  it.each([
    [{ ...body, endpoint: '/v1/embeddings' }, 'endpoint'],
    [{ ...body, completion_window: '1h' }, 'completion_window'],
    [{ ...body, input_file_id: undefined }, 'input_file_id'],
    [{ ...body, metadata: { k: 'v'.repeat(513) } }, 'metadata'],
    [{ ...body, metadata: { ['k'.repeat(65)]: 'v' } }, 'metadata'],
    [{ ...body, metadata: Object.fromEntries(Array.from({ length: 17 }, (_, at) => [at, ''])) }, 'metadata'],
  ])('%# is refused by its field', (sent, field) => {
    expect(() => checked(batchBody, sent)).toThrow(field)
  })
})
