import { readFileSync } from 'node:fs'
import { availableParallelism, freemem, totalmem } from 'node:os'
import type { ResourceLimits } from 'node:worker_threads'

const readControl = (name: string): string[] => {
  try {
    return readFileSync(`/sys/fs/cgroup/${name}`, 'utf8').trim().split(' ')
  } catch {
    // Not in this version of cgroups, or none at all: nothing limits this process beyond the machine.
    return []
  }
}

/** Cores this process may use: a container's CPU quota counts, which Node does not see everywhere. */
export const coresAllowed = (): number => {
  // cgroup v2 keeps both in one file, v1 in two, where a quota of -1 is none.
  const v1 = ['cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us']
  const [quota, period] = ['cpu.max', ...v1].flatMap(readControl).map(Number)
  return quota > 0 && period > 0 ? Math.max(1, Math.floor(quota / period)) : availableParallelism()
}

/**
 * Limits of a thread that computes: little room for young objects, so that they are looked through every few steps and the rows that the
 * dead ones held are let go. V8 marks the whole heap for every 64 MB of arrays, which decoding makes in ten steps.
 */
export const COMPUTE_HEAP: ResourceLimits = { maxYoungGenerationSizeMb: 6 }

/** Memory this process may use, in bytes. */
export const memoryAllowedBytes = (): number => {
  const [limit] = ['memory.max', 'memory/memory.limit_in_bytes'].flatMap(readControl).map(Number)
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem()
}

/** Memory this process and its children may still take, in bytes. */
export const memoryFreeBytes = (): number => {
  const [limit] = readControl('memory.max').map(Number)
  const [used] = readControl('memory.current').map(Number)
  if (!Number.isFinite(limit) || !Number.isFinite(used)) return freemem()
  // Cached files count as used there, and make way when memory is wanted.
  const cached = Number(/^inactive_file (\d+)$/m.exec(readControl('memory.stat').join(' '))?.[1] ?? 0)
  return Math.min(freemem(), limit - used + cached)
}
