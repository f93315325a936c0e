import { existsSync, readdirSync, readFileSync } from 'node:fs'

/** Resident bytes of a cluster's processes; workers together. */
export type Memory = { gatewayBytes: number; workersBytes: number }

/** Reads /proc: null where there is none. */
export const readMemory = (cluster: number): Memory | null => {
  if (!existsSync('/proc/self/status')) return null
  const memory = { gatewayBytes: 0, workersBytes: 0 }
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    const status = read(`/proc/${pid}/status`)
    if (number(status, 'PPid') !== cluster) continue
    const bytes = number(status, 'VmRSS') * 1024
    if (read(`/proc/${pid}/cmdline`).includes('services/gateway/')) memory.gatewayBytes += bytes
    else memory.workersBytes += bytes
  }
  return memory
}

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    // The process has ended meanwhile.
    return ''
  }
}

const number = (status: string, name: string): number =>
  Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1])
