import { readFileSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'

const readControl = (name: string): string[] => {
  try {
    return readFileSync(`/sys/fs/cgroup/${name}`, 'utf8').trim().split(' ')
  } catch {
    // No cgroup v2 here: nothing limits this process beyond the machine.
    return []
  }
}

/** Cores this process may use: a container's CPU quota counts, which Node does not see everywhere. */
export const coresAllowed = (): number => {
  const [quota, period] = readControl('cpu.max').map(Number)
  return Number.isFinite(quota) && period > 0 ? Math.max(1, Math.floor(quota / period)) : availableParallelism()
}

/** Memory this process may use, in bytes. */
export const memoryAllowedBytes = (): number => {
  const [limit] = readControl('memory.max').map(Number)
  return Number.isFinite(limit) ? Math.min(limit, totalmem()) : totalmem()
}
