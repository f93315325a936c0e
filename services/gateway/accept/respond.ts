import type { FastifyReply } from 'fastify'
import { Code, MeshError } from '../../../shared/errors.ts'
import { toFailure } from './failure.ts'
import { type GenerateParts, generate } from './generate.ts'
import { envelope, type Shape, usageBody } from './openai.ts'
import type { Work } from './request.ts'
import { openEvents } from './sse.ts'

/** Aborts when the client goes away before the answer has been written. */
const clientSignal = (reply: FastifyReply): AbortSignal => {
  const gone = new AbortController()
  reply.raw.once('close', () => gone.abort())
  if (reply.raw.destroyed) gone.abort()
  return gone.signal
}

/** What the client is told, in order: one value per event, with the token's index where the event is a token. */
async function* parts<Chunk>(from: GenerateParts, work: Work, shape: Shape<Chunk>, signal: AbortSignal) {
  const generation = await generate(from, work, signal)
  // Accepted: from here on failures come after the headers.
  yield { kind: 'accepted' as const }
  for (const chunk of shape.open()) yield { kind: 'chunk' as const, chunk }
  for await (const piece of generation.pieces) {
    const index = piece.kind === 'token' ? { index: piece.index } : {}
    yield { kind: 'chunk' as const, chunk: shape.chunk(piece), ...index }
  }
  yield { kind: 'usage' as const, usage: generation.usage() }
}

type Chunked = { index: number }

const stream = async <Chunk extends object>(
  from: GenerateParts,
  work: Work,
  shape: Shape<Chunk>,
  reply: FastifyReply,
): Promise<void> => {
  const created = Math.floor(Date.now() / 1000)
  const around = (choices: readonly object[]) => envelope(from.served, work, shape.part, created, choices)
  const told = parts(from, work, shape, clientSignal(reply))
  await told.next()
  reply.hijack()
  const events = openEvents(reply.raw, { 'x-request-id': reply.request.id })
  try {
    for await (const part of told) {
      if (part.kind === 'accepted') continue
      if (part.kind === 'chunk') {
        const usage = work.includeUsage ? { usage: null } : {}
        await events.send({ ...around([part.chunk]), ...usage }, 'index' in part ? part.index : undefined)
      } else if (work.includeUsage) await events.send({ ...around([]), usage: usageBody(part.usage) })
    }
    events.end(true)
  } catch (error) {
    reply.log.error(error)
    await events.send(toFailure(error).body)
    events.end(false)
  }
}

/** Answers with the pieces as they come, or with all of them in one body. Rejects, before anything is sent, when refused. */
export const respond = async <Chunk extends Chunked>(
  from: GenerateParts,
  work: Work,
  shape: Shape<Chunk>,
  reply: FastifyReply,
): Promise<unknown> => {
  if (work.stream) return stream(from, work, shape, reply)
  const signal = clientSignal(reply)
  const chunks: Chunk[][] = work.requests.map(() => [])
  let usage = {}
  for await (const part of parts(from, work, shape, signal)) {
    if (part.kind === 'chunk') chunks[part.chunk.index].push(part.chunk)
    else if (part.kind === 'usage') usage = usageBody(part.usage)
  }
  if (signal.aborted) throw new MeshError(Code.CANCELLED, 'The client went away.')
  const choices = chunks.map((of) => shape.merge(of))
  return { ...envelope(from.served, work, shape.whole, Math.floor(Date.now() / 1000), choices), usage }
}
