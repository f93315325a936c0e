import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { workerCommand } from '../../services/worker/config.ts'
import { packageRoot } from '../../shared/root.ts'

/** How long a service may take to end after SIGTERM: to answer what it accepted and break the rest, as its source says, and as its flags do. */
export const drainLimitMs = (service: 'gateway' | 'worker'): number => {
  const source = readFileSync(join(packageRoot, 'services', service, 'main.ts'), 'utf8')
  const limits = [...source.matchAll(/^const \w+_LIMIT_MS = ([\d_]+)$/gm)]
  if (limits.length === 0) throw new Error(`services/${service}/main.ts names no limit of its end`)
  const { drainTimeoutMs = 0 } = service === 'worker' ? workerCommand({}).opts<{ drainTimeoutMs?: number }>() : {}
  return limits.reduce((sum, [, ms]) => sum + Number(ms.replaceAll('_', '')), drainTimeoutMs)
}
