import { setTimeout as delay } from 'node:timers/promises'
import { Code, MeshError } from '../../../../shared/errors.ts'
import { toFailure } from '../failure.ts'
import { graceSecondsMax, priorityMax } from '../fields.ts'
import { type GenerateParts, type Generation, generate } from '../generate.ts'
import { requestIdOf } from '../kept.ts'
import { acceptChat, acceptCompletion, type Work } from '../request.ts'
import { collect } from '../respond.ts'
import type { Served } from '../served.ts'
import type { Endpoint } from './batch.ts'
import type { Result } from './results.ts'

/** Times a request is begun that ends for reasons outside it. */
export const attemptsMax = 3
/** How soon a request is sent again that found no place in the queue, or ended for such a reason. */
const retryMs = 1_000

/** A line of a batch: `at` is its place in the file. */
export type Asked = { batch: string; at: number; endpoint: Endpoint; body: unknown }

/**
 * The same for every gateway that comes to work on the batch, so that a later one joins what an earlier one began. It goes last in the
 * queue, has no deadline but the batch's, and runs on when the gateway that reads it is gone.
 */
export const workOf = (served: Served, { batch, at, endpoint, body }: Asked, attempt: number): Work => {
  const id = `${batch}-${at}${attempt > 0 ? `-try${attempt}` : ''}`
  const work =
    endpoint === '/v1/completions'
      ? acceptCompletion(served, body, `cmpl-${id}`)
      : acceptChat(served, body, `chatcmpl-${id}`)
  return { ...work, priority: priorityMax, deadlineMs: null, graceSeconds: graceSecondsMax }
}

const codes = {
  refused: new Set<Code>([Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE]),
  passing: new Set<Code>([Code.CANCELLED, Code.UNAVAILABLE]),
}
const isOf = (kind: keyof typeof codes, error: unknown): boolean =>
  error instanceof MeshError && codes[kind].has(error.code)

/** Sequences of a line; one that the API refuses has a place until it is told so. */
export const sequencesOf = (served: Served, asked: Asked): number => {
  try {
    return workOf(served, asked, 0).requests.length
  } catch {
    return 1
  }
}

/** Comes back as soon as `signal` aborts. */
const pause = (signal: AbortSignal): Promise<void> => delay(retryMs, undefined, { signal }).catch(() => {})

export type Stop = {
  /** Reads no more; what runs goes on. */
  left: AbortSignal
  /** Begins no more: left, or the batch is over. */
  ended: AbortSignal
}

const enter = async (parts: GenerateParts, work: Work, tenant: string, { left, ended }: Stop): Promise<Generation> => {
  const key = { name: `batch:${work.id}`, body: '' }
  for (;;)
    try {
      return await generate(parts, work, { tenant, key }, left)
    } catch (error) {
      if (!isOf('refused', error) || ended.aborted) throw error
      await pause(ended)
      if (ended.aborted) throw error
    }
}

const batchEnded = new MeshError(Code.CANCELLED, 'The batch of this request has ended.')

/** Ends requests of a batch wherever they run. */
export const endWorks = ({ intake }: Pick<GenerateParts, 'intake'>, works: readonly Work[]): Promise<void> =>
  intake.end(
    works.flatMap(({ requests }) => requests.map(({ id }) => id)),
    batchEnded,
  )

/** The one result of a line, as HTTP would have answered; null where it was stopped before. */
export const answer = async (
  parts: GenerateParts,
  asked: Asked,
  tenant: string,
  stop: Stop,
  begun: (work: Work) => void,
): Promise<Result | null> => {
  for (let attempt = 0; ; attempt++) {
    let requestId = `${asked.batch}-${asked.at}`
    try {
      const work = workOf(parts.served, asked, attempt)
      requestId = requestIdOf(work.id)
      begun(work)
      const generation = await enter(parts, work, tenant, stop)
      // It was on its way in when the others were ended.
      if (stop.ended.aborted && !stop.left.aborted) void endWorks(parts, [work])
      return { requestId, status: 200, body: await collect(parts, generation, stop.left) }
    } catch (error) {
      if (stop.ended.aborted) return null
      if (!isOf('passing', error) || attempt + 1 === attemptsMax) return { requestId, ...told(error) }
      await pause(stop.ended)
      if (stop.ended.aborted) return null
    }
  }
}

const told = (error: unknown): Pick<Result, 'status' | 'body'> => {
  const { status, body } = toFailure(error)
  return { status, body }
}
