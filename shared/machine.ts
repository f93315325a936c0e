import { readFileSync } from 'node:fs'
import { availableParallelism, freemem, totalmem } from 'node:os'
import { join } from 'node:path'
import type { ResourceLimits } from 'node:worker_threads'

const GROUPS = '/sys/fs/cgroup'

const readControl = (path: string): string[] => {
  try {
    return readFileSync(path, 'utf8').trim().split(/\s+/)
  } catch {
    // Not in this version of cgroups, or none at all: nothing limits this process beyond the machine.
    return []
  }
}

/** Folders of the groups that this process is in, its own first: cgroup v2 has one tree for all, v1 one for each controller. */
const groupsOf = (controller: 'cpu' | 'memory'): string[] =>
  readControl('/proc/self/cgroup').flatMap((line) => {
    const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    if (controllers !== '' && !controllers.split(',').includes(controller)) return []
    const trees = controllers === '' ? [GROUPS, join(GROUPS, 'unified')] : [join(GROUPS, controllers)]
    const names = path.split('/').filter((name) => name !== '')
    // In a container the path may be the host's, which is not to be seen there: then the root is the container's group.
    const groups = [...names.keys()].map((i) => names.slice(0, names.length - i).join('/'))
    return trees.flatMap((tree) => [...groups, ''].map((group) => join(tree, group)))
  })

/** The smallest CPU quota of this process's groups, in cores; Infinity without one. */
export const coresQuota = (): number =>
  groupsOf('cpu').reduce((least, group) => {
    // v2 keeps both in one file, v1 in two, where a quota of -1 is none.
    const files = ['cpu.max', 'cpu.cfs_quota_us', 'cpu.cfs_period_us'].map((name) => join(group, name))
    const [quota, period] = files.flatMap(readControl).map(Number)
    return quota > 0 && period > 0 ? Math.min(least, quota / period) : least
  }, Number.POSITIVE_INFINITY)

/** Microseconds that a quota of so many cores takes to grant the CPU time this process has used since it was last asked. */
export const openGranted = (cores: number): (() => number) => {
  let last = process.cpuUsage()
  return () => {
    const now = process.cpuUsage()
    const usedUs = now.user + now.system - last.user - last.system
    last = now
    return Math.round(usedUs / cores)
  }
}

/** Cores this process may use: a container's CPU quota counts, which Node does not see everywhere. */
export const coresAllowed = (): number => Math.max(1, Math.min(Math.floor(coresQuota()), availableParallelism()))

/**
 * Limits of a thread that computes: little room for young objects, so that they are looked through every few steps and the rows that the
 * dead ones held are let go before V8 finds its heap, to which it counts them, too large.
 */
export const COMPUTE_HEAP: ResourceLimits = { maxYoungGenerationSizeMb: 6 }

/** Memory this process may use, in bytes. */
export const memoryAllowedBytes = (): number => {
  const limits = groupsOf('memory').flatMap((group) =>
    ['memory.max', 'memory.limit_in_bytes'].flatMap((name) => readControl(join(group, name)).map(Number)),
  )
  return Math.min(totalmem(), ...limits.filter((limit) => limit > 0))
}

/** Memory this process and its children may still take, in bytes. */
export const memoryFreeBytes = (): number => {
  const [limit] = readControl(join(GROUPS, 'memory.max')).map(Number)
  const [used] = readControl(join(GROUPS, 'memory.current')).map(Number)
  if (!Number.isFinite(limit) || !Number.isFinite(used)) return freemem()
  // Cached files count as used there, and make way when memory is wanted.
  const cached = Number(/(?:^| )inactive_file (\d+)/.exec(readControl(join(GROUPS, 'memory.stat')).join(' '))?.[1] ?? 0)
  return Math.min(freemem(), limit - used + cached)
}
