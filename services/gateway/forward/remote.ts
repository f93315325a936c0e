import { type ChannelOptions, connectWorker } from './channel.ts'
import type { Runner } from './dispatch.ts'

/** A runner at the end of a connection. */
export type Remote = Runner & {
  /** Resolves when it answers at all. */
  ping(limitMs: number): Promise<void>
  close(): void
}

/** A worker as the runner of one model's experts. */
export const connectRemote = ({ model, ...options }: ChannelOptions & { model: string }): Remote => {
  const channel = connectWorker(options)
  return {
    name: options.address,
    send: (frame, call) => channel.send(frame, model, call),
    ping: (limitMs) => channel.ping(limitMs),
    close: () => channel.close(),
  }
}
