import type { Logger } from 'pino'
import { Member, type MemberOptions } from './member.ts'

/** Names workers: those of the command line, those that joined, those of a registry. */
export type Source = {
  /** Calls back with all the addresses it names, at once and at every change. */
  open(onAddresses: (addresses: readonly string[]) => void): void
  /** What became of a worker: used, or why not. Also told of workers that others name. */
  tell(address: string, live: boolean, reason: string): void
  close(): void
}

export const namedWorkers = (addresses: readonly string[]): Source => ({
  open: (onAddresses) => onAddresses(addresses),
  tell: () => {},
  close: () => {},
})

export type Roster = {
  /** Those that are reached now, or may be again. */
  members(): Member[]
  get(address: string): Member | undefined
  /** Names no more workers; those there are stay. */
  closeSources(): void
  close(): void
}

type RosterOptions = Omit<MemberOptions, 'address' | 'onChange'> & { log: Logger; onChange(): void }

/** A member for every worker that some source names. One that is no longer named stays for as long as it is reached. */
export const openRoster = (sources: readonly Source[], options: RosterOptions): Roster => {
  const members = new Map<string, Member>()
  const named = new Map<Source, readonly string[]>()
  const isNamed = (address: string): boolean => [...named.values()].some((addresses) => addresses.includes(address))

  const sweep = (): void => {
    for (const member of members.values()) {
      if (member.holdings || isNamed(member.address)) continue
      member.close()
      members.delete(member.address)
    }
  }
  /** What was last said of each member. */
  const told = new WeakMap<Member, string>()
  const tell = (member: Member): void => {
    const { address, state, reason, holdings } = member
    if (told.get(member) === state + reason) return
    told.set(member, state + reason)
    if (holdings) options.log.info({ worker: address, device: holdings.device, threads: holdings.threads }, state)
    else if (state === 'dialled') options.log.info({ worker: address, reason }, 'not reached yet')
    else options.log.warn({ worker: address }, `worker ${address} is ${state}: ${reason}`)
    for (const source of sources) source.tell(address, state === 'live', reason)
  }
  const onChange = (member: Member): void => {
    tell(member)
    sweep()
    options.onChange()
  }
  const add = (address: string): void => {
    if (!members.has(address)) members.set(address, new Member({ ...options, address, onChange }))
  }
  for (const source of sources) {
    source.open((addresses) => {
      named.set(source, addresses)
      for (const address of addresses) add(address)
      sweep()
    })
  }
  return {
    members: () => [...members.values()],
    get: (address) => members.get(address),
    closeSources() {
      for (const source of sources) source.close()
    },
    close() {
      for (const member of members.values()) member.close()
      members.clear()
    },
  }
}
