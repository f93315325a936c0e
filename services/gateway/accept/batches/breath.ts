import { setImmediate } from 'node:timers/promises'

/** Longest stretch for which this thread is kept from other work. */
const STRETCH_MS = 10

/** To be awaited often in a long computation: other work of this thread has its turn in between. */
export const openBreath = (): (() => Promise<void>) => {
  let begun = performance.now()
  return async () => {
    if (performance.now() - begun < STRETCH_MS) return
    await setImmediate()
    begun = performance.now()
  }
}
