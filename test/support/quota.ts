import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Short, so that a process is slow rather than stopped every now and then. */
const PERIOD_US = 20_000

/** A group of processes that together get so much of a core and no more. */
export type Quota = {
  enter(pid: number): void
  /** Share of the periods in which the group wanted more, 0 to 1. */
  throttled(): number
  /** Its processes have ended. */
  close(): void
}

/** Where cpu groups may be made: version 1, and version 2 alone or beside it. */
const places = ['/sys/fs/cgroup/cpu', '/sys/fs/cgroup/cpu,cpuacct', '/sys/fs/cgroup', '/sys/fs/cgroup/unified']

let made = 0

/** null where this machine lets nobody set quotas. */
export const openQuota = (cores: number): Quota | null => {
  for (const place of places) {
    const group = join(place, `expertmesh-test-${process.pid}-${made++}`)
    try {
      mkdirSync(group)
    } catch {
      continue
    }
    try {
      limit(group, Math.round(cores * PERIOD_US))
    } catch {
      rmdirSync(group)
      continue
    }
    const count = (name: string): number =>
      Number(new RegExp(`^${name} (\\d+)`, 'm').exec(readFileSync(join(group, 'cpu.stat'), 'utf8'))?.[1])
    return {
      enter: (pid) => writeFileSync(join(group, 'cgroup.procs'), String(pid)),
      throttled: () => count('nr_throttled') / Math.max(1, count('nr_periods')),
      close: () => rmdirSync(group),
    }
  }
  return null
}

/** The files are there or they are not: nothing is made by writing to them. @throws Error of the file system. */
const limit = (group: string, quotaUs: number): void => {
  const existing = { flag: 'r+' }
  try {
    writeFileSync(join(group, 'cpu.max'), `${quotaUs} ${PERIOD_US}`, existing)
  } catch {
    writeFileSync(join(group, 'cpu.cfs_period_us'), String(PERIOD_US), existing)
    writeFileSync(join(group, 'cpu.cfs_quota_us'), String(quotaUs), existing)
  }
}
