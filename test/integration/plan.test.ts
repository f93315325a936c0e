import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, expect, test } from 'vitest'
import { demo, startCluster } from '../support/cluster.ts'
import { complete } from '../support/complete.ts'

const root = join(import.meta.dirname, '..', '..')
const main = join(root, 'dist', 'services', 'cli', 'main.js')

const expertmesh = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code, out, err }
}

describe('expertmesh plan', () => {
  test('plans from the metrics that a gateway has counted', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'plan-'))
    const cluster = await startCluster({ workers: 2 })
    try {
      const prompt = Array.from({ length: 40 }, (_, i) => (i * 37) % 4000)
      await complete(cluster.url, prompt, { max_tokens: 20 })
      const metrics = async (): Promise<string> => (await fetch(`${cluster.url}/metrics`)).text()
      await expect.poll(metrics, { timeout: 10_000 }).toContain('expertmesh_expert_rows_total{layer="4"')
      const trace = join(dir, 'trace.txt')
      await writeFile(trace, await metrics())
      const { code, out, err } = await expertmesh(
        ...['plan', '--model', demo, '--workers', '2x1MiB,2x2MiB@2'],
        ...['--trace', trace, '--json'],
      )
      expect({ code, err }).toEqual({ code: 0, err: '' })
      const { workers, balanced, dealt, load } = JSON.parse(out)
      expect(load).toMatch(/trace\.txt, [\d,]+ rows/)
      const held = workers.flatMap(({ holds }: { holds: { layer: number; experts: number[] }[] }) =>
        holds.flatMap(({ layer, experts }) => experts.map((expert) => `${layer}/${expert}`)),
      )
      expect(new Set(held).size).toBe(4 * 24)
      expect(balanced.stepTime).toBeLessThan(dealt.stepTime)
    } finally {
      await cluster.stop()
      await rm(dir, { recursive: true })
    }
  })

  test('prints a page, and how long it took', async () => {
    const { code, out } = await expertmesh('plan', '--model', demo, '--workers', '4x1MiB', '--zipf', '1.2')
    expect(code).toBe(0)
    expect(out).toMatch(/^demo \(deepseek\): 4 layers with 24 experts each/)
    expect(out).toMatch(/^this placement +1\.0\d +1\.0\d$/m)
    expect(out).toMatch(/^planned in \d+\.\d s$/m)
  })

  test('--help explains workers, traces and rules', async () => {
    const { code, out } = await expertmesh('plan', '--help')
    expect(code).toBe(0)
    for (const word of ['Usage: expertmesh plan', '[NAME=][COUNTx]MEMORY[@SPEED]', 'curl', '"forbid"'])
      expect(out).toContain(word)
  })

  test.each([
    ['workers that are none', ['--workers', '3 big ones'], 'COUNTxMEMORY@SPEED'],
    ['too little memory', ['--workers', '2x1MiB'], 'add '],
    ['both traces', ['--workers', '4x1MiB', '--trace', 'a', '--zipf', '1'], 'cannot be used with'],
  ])('%s end with a sentence and an exit code', async (_, flags, sentence) => {
    const { code, out, err } = await expertmesh('plan', '--model', demo, ...flags)
    expect({ code, out }).toEqual({ code: 1, out: '' })
    expect(err).toContain(sentence)
    expect(err).not.toContain('    at ')
  })
})
