import { onParentLost } from '../../shared/lifeline.ts'

/** A terminal and npm both pass Ctrl-C on, so signals this close together are one. */
const SAME_SIGNAL_MS = 1_000

/**
 * Aborts on the first SIGINT, SIGTERM or SIGHUP, and when a parent that watches over this process is gone. A later signal ends the
 * process at once; its children see their channel close.
 */
export const stopSignal = (): AbortSignal => {
  const controller = new AbortController()
  let firstMs: number | null = null
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      firstMs ??= Date.now()
      if (Date.now() - firstMs > SAME_SIGNAL_MS) process.exit(130)
      controller.abort()
    })
  }
  onParentLost(() => controller.abort())
  return controller.signal
}

/** Resolves when the signal aborts; at once if it has. */
export const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
