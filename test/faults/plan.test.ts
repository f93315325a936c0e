import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { expect, test } from 'vitest'
import { packageRoot } from '../../shared/root.ts'
import { v3Sizes } from '../support/configs.ts'

const LIMIT_MS = 10_000

test(`4,096 workers are planned for a model of DeepSeek-V3's sizes in ${LIMIT_MS / 1000} s`, async () => {
  const dir = await mkdtemp(join(tmpdir(), 'plan-'))
  await writeFile(join(dir, 'config.json'), JSON.stringify(v3Sizes))
  const main = join(packageRoot, 'dist', 'services', 'cli', 'main.js')
  const flags = ['--model', dir, '--workers', '2048x160MiB,2048x256MiB@2', '--zipf', '1.2', '--json']
  const begun = performance.now()
  const child = spawn(process.execPath, [main, 'plan', ...flags], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [out, [code]] = await Promise.all([text(child.stdout), once(child, 'close')])
  const tookMs = performance.now() - begun
  await rm(dir, { recursive: true })
  expect(code).toBe(0)
  expect(JSON.parse(out).workers).toHaveLength(4096)
  expect(tookMs).toBeLessThan(LIMIT_MS)
})
