import assert from 'node:assert/strict'
import { Code, MeshError } from '../../shared/errors.ts'
import type { Engine, EngineEvent, GenerationRequest } from './sequence.ts'

/**
 * Requests that are accepted and not yet with an engine, first come first served. It works per request, never per token.
 * Asynchronous because a store outside this process may keep them.
 */
export type Queue = {
  /** Resolves once the request is stored; rejects with RESOURCE_EXHAUSTED when `limit` requests already wait. */
  add(request: GenerationRequest): Promise<void>
  /** Removes and returns the next requests, at most `room`; none when `room` is 0 or less. Never rejects. */
  take(room: number): Promise<GenerationRequest[]>
  /** Forgets a waiting request; false when it does not wait here. */
  cancel(id: string): boolean
  /** How many requests go before this one; null when it does not wait here. */
  position(id: string): number | null
  depth(): number
}

/** The queue of one process: not durable, gone with it. */
export const openQueue = (limit: number): Queue => {
  assert(limit >= 1)
  const waiting = new Map<string, GenerationRequest>()
  return {
    async add(request) {
      assert(!waiting.has(request.id), 'a request id is used once')
      if (waiting.size >= limit)
        throw new MeshError(
          Code.RESOURCE_EXHAUSTED,
          `${limit} requests are already waiting, which is this gateway's --queue-limit: try again in a moment.`,
          { reason: 'rate_limit_exceeded' },
        )
      waiting.set(request.id, request)
    },
    async take(room) {
      const taken = [...waiting.values()].slice(0, Math.max(0, room))
      for (const request of taken) waiting.delete(request.id)
      return taken
    },
    cancel: (id) => waiting.delete(id),
    position(id) {
      const at = [...waiting.keys()].indexOf(id)
      return at < 0 ? null : at
    },
    depth: () => waiting.size,
  }
}

/** An engine behind a queue: submit resolves once the request is accepted and rejects as Queue.add does. */
export type Intake = {
  submit(request: GenerationRequest, onEvent: (event: EngineEvent) => void): Promise<void>
  /** Stops a request wherever it is; no event follows. An unknown id is ignored. */
  cancel(id: string): void
}

const ends = (event: EngineEvent): boolean =>
  event.kind === 'failed' || (event.kind === 'token' && event.finish !== null)

/** Gives the engine the next waiting requests whenever fewer than `room` are with it. */
export const feed = (engine: Engine, queue: Queue, room: number): Intake => {
  assert(room >= 1)
  const listeners = new Map<string, (event: EngineEvent) => void>()
  const running = new Set<string>()

  const leave = (id: string): void => {
    listeners.delete(id)
    if (running.delete(id)) refill()
  }

  const start = (request: GenerationRequest): void => {
    const listener = listeners.get(request.id)
    // It was cancelled between leaving the queue and arriving here.
    if (!listener) return
    running.add(request.id)
    engine.submit(request, (event) => {
      if (listeners.get(request.id) !== listener) return
      if (ends(event)) leave(request.id)
      listener(event)
    })
  }

  // One take at a time: two at once would each believe in the same room.
  let refilled = Promise.resolve()
  const refill = (): void => {
    refilled = refilled.then(async () => {
      for (const request of await queue.take(room - running.size)) start(request)
    })
  }

  return {
    async submit(request, onEvent) {
      listeners.set(request.id, onEvent)
      try {
        await queue.add(request)
      } catch (error) {
        listeners.delete(request.id)
        throw error
      }
      refill()
    },
    cancel(id) {
      if (!queue.cancel(id) && running.has(id)) engine.cancel(id)
      leave(id)
    },
  }
}
