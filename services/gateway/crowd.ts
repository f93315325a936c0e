import type { MeshError } from '../../shared/errors.ts'
import { queueFull, shareFull } from './journal/journal.ts'

/** So often one asks all the same: for places that came free elsewhere. */
const REMEMBERED_MS = 2_000
/** Tenants remembered as refused. */
const TENANTS_MAX = 1_024
const EVERYBODY = ''

type Refused = { error: MeshError; untilMs: number }

/**
 * Who was lately refused a place in a queue of `limit` places that this process shares with others. Asking that queue takes as long
 * as its store takes to write, so after a refusal no more ask than places have come free here, and one every so often.
 */
export class Crowd {
  readonly #limit: number
  readonly #refused = new Map<string, Refused>()
  /** How many may ask all the same. */
  #permits = 0
  /** One asks for places that came free elsewhere. */
  #probing = false

  constructor(limit: number) {
    this.#limit = limit
  }

  /** The queue said so: full is for everybody, crowded for the tenant alone, of whom `count` wait. Returns what to throw. */
  refuse(verdict: 'full' | 'crowded', count: number, tenant: string, sequences: number): MeshError {
    const error = verdict === 'full' ? queueFull(count, this.#limit) : shareFull(count, this.#limit)
    // Only where one sequence found no place the next will find none either.
    if (sequences > 1) return error
    if (this.#refused.size >= TENANTS_MAX) this.#refused.clear()
    this.#refused.set(verdict === 'full' ? EVERYBODY : tenant, { error, untilMs: performance.now() + REMEMBERED_MS })
    this.#permits = 0
    this.#probing = false
    return error
  }

  /** What the next request of the tenant is refused with; null where it is to ask the queue. */
  turnAway(tenant: string): MeshError | null {
    for (const whom of [EVERYBODY, tenant]) {
      const refused = this.#refused.get(whom)
      if (!refused) continue
      const late = performance.now() >= refused.untilMs
      if (!late && this.#permits === 0) return refused.error
      if (late) refused.untilMs = performance.now() + REMEMBERED_MS
      else this.#permits--
      this.#probing ||= late
      return null
    }
    return null
  }

  /** That many places have come free. */
  freed(places: number): void {
    if (this.#refused.size > 0) this.#permits += places
  }

  /** A request got its place; where nothing had come free here, there may be more. */
  admitted(): void {
    if (this.#probing) this.#refused.clear()
    this.#probing = false
  }
}
