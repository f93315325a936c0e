import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { expect, test } from 'vitest'
import { openGranted } from '../../shared/machine.ts'
import { packageRoot } from '../../shared/root.ts'
import { openQuota } from '../support/quota.ts'

/** What a process sees that has been put into a group of so much of a core before it looks. */
const seenWith = async (cores: number): Promise<unknown> => {
  const quota = openQuota(cores)
  if (!quota) return null
  const machine = join(packageRoot, 'dist', 'shared', 'machine.js')
  const look = `const m = await import(${JSON.stringify(machine)}); console.log(JSON.stringify([m.coresQuota(), m.coresAllowed()]))`
  const child = spawn(process.execPath, ['--input-type=module', '-'], { stdio: ['pipe', 'pipe', 'inherit'] })
  if (child.pid) quota.enter(child.pid)
  child.stdin.end(look)
  const [printed] = await Promise.all([text(child.stdout), once(child, 'close')])
  const seen: unknown = JSON.parse(printed)
  quota.close()
  return seen
}

test('a process sees the CPU quota of its own group, and is allowed the whole cores in it', async (context) => {
  const seen = await seenWith(1.5)
  if (seen === null) return context.skip('no CPU quotas can be set here')
  expect(seen).toEqual([1.5, 1])
  expect(await seenWith(0.25)).toEqual([0.25, 1])
  expect(await seenWith(64)).toEqual([64, availableParallelism()])
})

test('what a process has used is granted by a quota in so much longer', () => {
  const USED_US = 20_000
  const [half, unlimited] = [openGranted(0.5), openGranted(Number.POSITIVE_INFINITY)]
  const before = process.cpuUsage()
  const used = ({ user, system } = process.cpuUsage(before)): number => user + system
  while (used() < USED_US);
  const granted = half()
  expect(granted).toBeGreaterThanOrEqual(2 * USED_US)
  expect(granted).toBeLessThanOrEqual(2 * (used() + 1_000))
  expect(half()).toBeLessThan(granted)
  expect(unlimited()).toBe(0)
})
