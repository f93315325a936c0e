import type { Logger } from 'pino'
import { MeshError } from '../../../shared/errors.ts'
import { Member, type MemberOptions } from './member.ts'
import { type Spare, startSpare } from './spare.ts'

/** Wait after a start that failed. */
const RETRY_MS = 5_000

/** The gateway's own worker as a member of its fleet, while it is needed. */
export type StandIn = {
  readonly member: Member | null
  /** Starts it with room for this many bytes of experts. Does nothing while it starts, runs, or has just failed to. */
  call(bytes: number): void
  /** Ends it, if it is still this one. */
  dismiss(member: Member): void
  close(): Promise<void>
}

type StandInOptions = { modelDir: string; cacheDir: string; threads: number; log: Logger }

export const openStandIn = (
  { modelDir, cacheDir, threads, log }: StandInOptions,
  options: Omit<MemberOptions, 'address' | 'onChange'> & { onChange(): void },
): StandIn => {
  let member: Member | null = null
  let spare: Promise<Spare | null> | null = null
  let closed = false

  const start = async (bytes: number): Promise<Spare | null> => {
    try {
      const started = await startSpare({ modelDir, cacheDir, threads, bytes })
      log.warn({ worker: started.address }, 'no worker has room for some experts: the gateway runs them itself')
      if (!closed) member = new Member({ ...options, address: started.address, onChange })
      void started.ended.then(forget)
      return started
    } catch (error) {
      log.warn(MeshError.from(error).message)
      setTimeout(forget, RETRY_MS).unref()
      return null
    }
  }
  const onChange = ({ state, reason }: Member): void => {
    if (state === 'refused') log.warn(`the gateway's own worker is of no use: ${reason}`)
    options.onChange()
  }
  const forget = (): void => {
    member?.close()
    member = null
    spare = null
    if (!closed) options.onChange()
  }
  const stop = async (): Promise<void> => {
    const stopping = spare
    member?.close()
    await (await stopping)?.stop()
  }
  return {
    get member() {
      return member
    },
    call(bytes) {
      if (!closed) spare ??= start(bytes)
    },
    dismiss(which) {
      if (which !== member) return
      log.info('workers hold all experts again: the gateway ends its own')
      void stop()
    },
    close() {
      closed = true
      return stop()
    },
  }
}
