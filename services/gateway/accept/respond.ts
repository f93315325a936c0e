import type { FastifyReply } from 'fastify'
import { Code, MeshError } from '../../../shared/errors.ts'
import { completionShape } from './completions.ts'
import { toFailure } from './failure.ts'
import type { GenerateParts, Generation } from './generate.ts'
import { requestIdOf } from './kept.ts'
import { messageShape } from './messages.ts'
import { envelope, type Shape, usageBody } from './openai.ts'
import { openProgress, type Progress } from './progress.ts'
import type { Work } from './request.ts'
import { openEvents } from './sse.ts'

/** Aborts when the client goes away before the answer has been written. */
const clientSignal = (reply: FastifyReply): AbortSignal => {
  const gone = new AbortController()
  reply.raw.once('close', () => gone.abort())
  if (reply.raw.destroyed) gone.abort()
  return gone.signal
}

/** What the client is told, in order: one value per event; `had` where a reader who comes back has it already. */
async function* parts<Chunk extends Chunked>(generation: Generation, shape: Shape<Chunk>, progress: Progress) {
  for (const chunk of shape.open()) {
    const had = progress.hadPrompt(chunk.index)
    progress.prompt(chunk.index)
    yield { kind: 'chunk' as const, chunk, had }
  }
  for await (const piece of generation.pieces) {
    // The shape sees every piece: where a text stands follows from those before it.
    const chunk = shape.chunk(piece)
    const { choice } = piece
    const had = piece.kind === 'prompt' ? progress.hadPrompt(choice) : progress.hadToken(choice, piece.index)
    if (piece.kind === 'prompt') progress.prompt(choice)
    else if (!had) progress.token(choice, piece.index)
    yield { kind: 'chunk' as const, chunk, had }
  }
  yield { kind: 'usage' as const, usage: generation.usage() }
}

type Chunked = { index: number }

const stream = async <Chunk extends Chunked>(
  from: GenerateParts,
  generation: Generation,
  shape: Shape<Chunk>,
  progress: Progress,
  reply: FastifyReply,
): Promise<void> => {
  const { work, created } = generation.kept
  const around = (choices: readonly object[]) => envelope(from.served, work, shape.part, created, choices)
  reply.hijack()
  const events = openEvents(reply.raw, { 'x-request-id': requestIdOf(work.id) })
  try {
    for await (const part of parts(generation, shape, progress)) {
      if (part.kind === 'chunk') {
        const usage = work.includeUsage ? { usage: null } : {}
        if (!part.had) await events.send({ ...around([part.chunk]), ...usage }, progress.id())
      } else if (work.includeUsage) await events.send({ ...around([]), usage: usageBody(part.usage) })
    }
    events.end(true)
  } catch (error) {
    reply.log.error(error)
    await events.send(toFailure(error).body)
    events.end(false)
  }
}

const whole = async <Chunk extends Chunked>(
  from: GenerateParts,
  generation: Generation,
  shape: Shape<Chunk>,
  signal: AbortSignal,
): Promise<unknown> => {
  const { work, created } = generation.kept
  const chunks: Chunk[][] = work.requests.map(() => [])
  let usage = {}
  for await (const part of parts(generation, shape, openProgress(work.requests.length, null))) {
    if (part.kind === 'chunk') chunks[part.chunk.index].push(part.chunk)
    else usage = usageBody(part.usage)
  }
  if (signal.aborted) throw new MeshError(Code.CANCELLED, 'The client went away.')
  const choices = chunks.map((of) => shape.merge(of))
  return { ...envelope(from.served, work, shape.whole, created, choices), usage }
}

const withShape = <Told>(
  from: GenerateParts,
  work: Work,
  tell: <Chunk extends Chunked>(shape: Shape<Chunk>) => Told,
): Told => {
  if (work.kind === 'chat') return tell(messageShape(from.served, work))
  return tell(completionShape(from.served, work, from.openTextStream))
}

/** The answer in one body, once there is all of it. @throws MeshError CANCELLED once `signal` has aborted, and what made it fail. */
export const collect = (from: GenerateParts, generation: Generation, signal: AbortSignal): Promise<unknown> =>
  withShape(from, generation.kept.work, (shape) => whole(from, generation, shape, signal))

const progressOf = (generation: Generation, lastEventId: string | null): Progress => {
  try {
    return openProgress(generation.kept.work.requests.length, lastEventId)
  } catch (error) {
    generation.close()
    throw error
  }
}

/**
 * Answers with the pieces as they come, or with all of them in one body. Rejects, before anything is sent, when refused.
 * @param lastEventId of a reader who comes back to a stream: it gets what follows.
 */
export const respond = async (
  from: GenerateParts,
  begin: (signal: AbortSignal) => Promise<Generation>,
  reply: FastifyReply,
  lastEventId: string | null = null,
  streamed: boolean | null = null,
): Promise<unknown> => {
  const signal = clientSignal(reply)
  const generation = await begin(signal)
  const { work } = generation.kept
  const progress = progressOf(generation, lastEventId)
  reply.header('x-request-id', requestIdOf(work.id))
  if (!(streamed ?? work.stream)) return collect(from, generation, signal)
  return withShape(from, work, (shape) => stream(from, generation, shape, progress, reply))
}
