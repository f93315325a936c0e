import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { startCluster } from '../support/cluster.ts'
import { complete } from '../support/complete.ts'
import { golden } from '../support/goldens.ts'
import { startWorker } from '../support/service.ts'
import { swiftShader } from '../support/swiftshader.ts'

const cache = mkdtempSync(join(tmpdir(), 'expertmesh-webgpu-'))
afterAll(() => rmSync(cache, { recursive: true }))

/** Compiling shaders and running them without a GPU takes a while, more so on busy cores. */
const LIMIT_MS = 240_000

const skipped = swiftShader ? '' : ' (skipped: SwiftShader, in the Debian package chromium, is not on this machine)'

describe.skipIf(!swiftShader)(`experts on WebGPU${skipped}`, { timeout: LIMIT_MS }, () => {
  it.each(['deepseek', 'mixtral'])('%s: two workers give the ids of transformers, alone and together', async (name) => {
    const { dir, cases } = golden(name)
    const options = { model: dir, workers: 2, precision: 'fp32' as const, env: swiftShader ?? {} }
    const { url, stop } = await startCluster({ ...options, args: ['--device', 'webgpu', '--cache', cache] })
    const ask = ({ input_ids, greedy }: (typeof cases)[number]) =>
      complete(url, input_ids, { max_tokens: greedy.length })
    const together = await Promise.all(cases.map(ask))
    expect(together.map(({ ids }) => ids)).toEqual(cases.map(({ greedy }) => greedy))
    expect(await ask(cases[1])).toEqual(together[1])
    expect(await stop()).toBe(0)
  })

  it.each(['int8', 'int4'] as const)('refuses %s, whose kernels are the CPU’s', async (precision) => {
    const options = { model: golden('deepseek').dir, workers: 1, precision, env: swiftShader ?? {} }
    const start = startCluster({ ...options, args: ['--device', 'webgpu', '--cache', cache] })
    await expect(start).rejects.toThrow(/--precision fp32/)
  })
})

describe('a device that cannot be had', () => {
  // A driver list that names none: also a machine with a GPU has no WebGPU device then.
  it.each([
    ['webgpu', 'libvulkan1'],
    ['cuda', 'CUDA 12'],
  ])('%s is refused with the cure, and nothing takes its place', async (device, cure) => {
    const env = { VK_ICD_FILENAMES: join(cache, 'none.json') }
    await expect(startWorker(['--device', device, '--cache', cache], env)).rejects.toThrow(
      new RegExp(`ended with 1:[^]*device ${device} cannot be had[^]*${cure}`),
    )
  })
})
