import { setTimeout as delay } from 'node:timers/promises'
import type { GenerateParts } from '../generate.ts'
import type { Archive } from './archive.ts'
import { Claim } from './claim.ts'
import { Drive } from './drive.ts'
import { openRoom } from './room.ts'

/** How often a gateway looks for batches that nobody works on. */
const pollMs = 500
/** Batches one gateway works on at a time; their lines are in its memory. */
const drivesMax = 4
/** How soon a batch is taken up again whose work failed here. */
const restMs = 5_000
const sweepIntervalMs = 60_000
/** How long closing waits for leases to be given back; one that is not ends by itself. */
const closeLimitMs = 2_000

export type DriverParts = GenerateParts & {
  /** Waits while its store is away. */
  archive: Archive
  /** Sequences of batches that are in the queue or running for this gateway's batches at a time. */
  sequences: number
  onError(error: unknown): void
}

/** Works on batches, whichever gateway took them in, from here on. */
export const openDriver = ({ sequences, ...parts }: DriverParts): { close(): Promise<void> } => {
  const { archive, onError } = parts
  const closed = new AbortController()
  const { signal } = closed
  const room = openRoom(sequences)
  const drives = new Map<string, Promise<void>>()
  let sweptAt = Number.NEGATIVE_INFINITY

  const pause = (ms: number): Promise<void> => delay(ms, undefined, { signal, ref: false }).catch(() => {})
  const drive = async (claim: Claim): Promise<void> => {
    try {
      await new Drive({ ...parts, room }, claim, signal).run()
    } catch (error) {
      if (signal.aborted) return
      onError(error)
      await pause(restMs)
    }
  }
  const look = async (): Promise<void> => {
    for (const id of await archive.open()) {
      if (drives.has(id) || drives.size === drivesMax || signal.aborted) continue
      const claim = await Claim.take(archive, id)
      if (claim)
        drives.set(
          id,
          drive(claim).finally(() => drives.delete(id)),
        )
    }
    if (performance.now() - sweptAt < sweepIntervalMs) return
    sweptAt = performance.now()
    await archive.sweep(Date.now())
  }
  const looking = (async () => {
    while (!signal.aborted) {
      await look().catch((error) => signal.aborted || onError(error))
      await pause(pollMs)
    }
  })()
  return {
    async close() {
      closed.abort()
      const ended = Promise.all([looking, ...drives.values()])
      await Promise.race([ended, delay(closeLimitMs, undefined, { ref: false })])
    },
  }
}
