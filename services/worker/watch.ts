import type { ServerWritableStream } from '@grpc/grpc-js'
import { Code, MeshError } from '../../shared/errors.ts'
import type { HoldingsRequest__Output } from '../../shared/gen/expertmesh/v1/HoldingsRequest.ts'
import type { HoldingsResponse } from '../../shared/gen/expertmesh/v1/HoldingsResponse.ts'
import { statusOf } from '../../shared/status.ts'

/** A gateway that hears nothing for a few of these takes the worker for lost. */
const BEAT_MS = 1_000

type WatchCall = ServerWritableStream<HoldingsRequest__Output, HoldingsResponse>

/** Serves Watch. The calls that are open are the gateways that need this worker. */
export type Watch = {
  serve(call: WatchCall): void
  /** Whether a gateway needs this worker for this model. */
  names(model: string): boolean
  /** Tells everyone now. */
  changed(): void
  /** Resolves when the last gateway has closed its call; new calls are refused from now on. At once where nobody watches. */
  unwatched(): Promise<void>
  close(): void
}

export const openWatch = (holdings: (model: string) => HoldingsResponse): Watch => {
  const calls = new Set<WatchCall>()
  let refusing = false
  let onUnwatched = (): void => {}

  const tell = (call: WatchCall): void => {
    // Who does not read misses beats: the next one says it all again.
    if (!call.writableNeedDrain) call.write(holdings(call.request.model))
  }
  const changed = (): void => calls.forEach(tell)
  const timer = setInterval(changed, BEAT_MS)
  const forget = (call: WatchCall): void => {
    calls.delete(call)
    if (calls.size === 0) onUnwatched()
  }

  return {
    serve(call) {
      if (refusing) {
        call.emit('error', statusOf(new MeshError(Code.UNAVAILABLE, 'this worker is about to end')))
        return
      }
      calls.add(call)
      call.once('cancelled', () => forget(call))
      tell(call)
    },
    names: (model) => [...calls].some((call) => call.request.model === model),
    changed,
    unwatched() {
      refusing = true
      changed()
      return new Promise((resolve) => {
        onUnwatched = resolve
        if (calls.size === 0) resolve()
      })
    },
    close: () => clearInterval(timer),
  }
}
