import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { hasCpuQuota } from '../../shared/machine.ts'
import { built } from '../../shared/root.ts'
import { openQuota } from '../support/quota.ts'

const module = pathToFileURL(built('shared/machine.ts')).href
const script = `import { hasCpuQuota } from '${module}'
process.stdin.once('data', () => { console.log(hasCpuQuota()); process.exit() })`

test('a process knows whether a group that it is in has a quota of the cores', async (context) => {
  const quota = hasCpuQuota() ? null : openQuota(0.5)
  if (!quota) return context.skip('no groups with a quota can be made here, or all are in one')
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] })
  quota.enter(child.pid!)
  child.stdin.write('now')
  const [said] = await once(child.stdout, 'data')
  await once(child, 'exit')
  quota.close()
  expect(String(said)).toBe('true\n')
})
