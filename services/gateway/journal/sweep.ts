import { Code, MeshError } from '../../../shared/errors.ts'
import type { Queue } from '../queue.ts'
import type { Journal } from './journal.ts'

/** Accepting and queueing are two steps of a few milliseconds: whoever is between them for this long is gone. */
const INTERVAL_MS = 30_000

const lost = new MeshError(
  Code.UNAVAILABLE,
  'The gateway that took this request ended before it was queued: send it again.',
)

/**
 * Ends sequences whose gateway died after it had accepted them and before their job was stored, of which no client was told: they
 * would be counted as waiting for ever. Returns what ends the watch.
 */
export const watchStrays = (
  journal: Journal,
  queue: Queue,
  onError: (error: unknown) => void,
  intervalMs = INTERVAL_MS,
): (() => void) => {
  let suspects = new Set<string>()
  const look = async (): Promise<void> => {
    const waiting = await journal.waitingIds()
    const here = await Promise.all(waiting.map((id) => queue.has(id)))
    const missing = waiting.filter((_, at) => !here[at])
    await journal.end(
      missing.filter((id) => suspects.has(id)),
      lost,
    )
    suspects = new Set(missing)
  }
  const timer = setInterval(() => void look().catch(onError), intervalMs).unref()
  return () => clearInterval(timer)
}
