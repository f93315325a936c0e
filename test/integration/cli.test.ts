import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, expect, test } from 'vitest'
import { demo, startCluster } from '../support/cluster.ts'
import { golden } from '../support/goldens.ts'

const root = join(import.meta.dirname, '..', '..')
const main = join(root, 'dist', 'services', 'cli', 'main.js')

type Run = { code: number | null; out: string; err: string }
const finish = async (child: ChildProcess): Promise<Run> => {
  const [out, err, [code]] = await Promise.all([text(child.stdout!), text(child.stderr!), once(child, 'close')])
  return { code: code as number | null, out, err }
}
const expertmesh = (...args: string[]): Promise<Run> =>
  finish(spawn(process.execPath, [main, ...args], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] }))

const demoCases = JSON.parse(readFileSync(join(demo, 'expected.json'), 'utf8')).cases as {
  prompt: string
  input_ids: number[]
  greedy: number[]
  text: string
}[]

describe('expertmesh generate', () => {
  const [known] = demoCases
  const shared = ['generate', '--model', demo, '--precision', 'fp32', '--temperature', '0', '--max-tokens', '40']

  test('--json prints one object with the ids transformers gives, and nothing else', async () => {
    const { code, out } = await expertmesh(...shared, '--prompt', known.prompt, '--json', '--workers', '2')
    expect(code).toBe(0)
    const { ids, text, logits_sha256, usage, timing } = JSON.parse(out)
    expect({ ids, text }).toEqual({ ids: known.greedy, text: known.text })
    expect(logits_sha256).toMatch(/^[0-9a-f]{64}$/)
    expect(usage).toMatchObject({ prompt_tokens: known.input_ids.length, completion_tokens: 40 })
    expect(timing.prefill_tokens_per_second).toBeGreaterThan(0)
    expect(timing.decode_tokens_per_second).toBeGreaterThan(0)

    const ids0 = ['--ids', known.input_ids.join(), '--json', '--workers', '0']
    const alone = JSON.parse((await expertmesh(...shared, ...ids0)).out)
    expect([alone.ids, alone.logits_sha256]).toEqual([ids, logits_sha256])
  })

  test('without --json the text is streamed to stdout', async () => {
    expect(await expertmesh(...shared, '--prompt', known.prompt)).toMatchObject({ code: 0, out: `${known.text}\n` })
  })

  test('a checkpoint without a tokenizer works by ids, and text is null', async () => {
    const { dir, cases } = golden('deepseek')
    const flags = ['--temperature', '0', '--precision', 'fp32', '--ignore-eos', '--json', '--workers', '1']
    const length = ['--max-tokens', String(cases[0].greedy.length)]
    const { out } = await expertmesh(
      'generate',
      '--model',
      dir,
      '--ids',
      cases[0].input_ids.join(),
      ...length,
      ...flags,
    )
    expect(JSON.parse(out)).toMatchObject({ ids: cases[0].greedy, text: null })
  })

  test.each([
    ['no prompt', ['--model', demo], 'give either --prompt TEXT or --ids'],
    ['a number that is none', ['--model', demo, '--ids', '1,x'], 'token ids separated by commas'],
    ['an id outside the vocabulary', ['--model', demo, '--ids', '4096'], '4096'],
    ['a folder without a model', ['--model', join(root, 'proto'), '--prompt', 'a'], 'config.json'],
    ['no tokens wanted', ['--model', demo, '--prompt', 'a', '--max-tokens', '0'], 'whole number of at least 1'],
  ])('%s ends with a sentence and an exit code', async (_, args, sentence) => {
    const { code, out, err } = await expertmesh('generate', ...args, '--workers', '1')
    expect({ code, out }).toEqual({ code: 1, out: '' })
    expect(err).toContain(sentence)
    expect(err).not.toContain('    at ')
  })
})

/** Ids of the processes whose parent is `pid`, from /proc. */
const childrenOf = (pid: number): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((child) => parentOf(child) === pid)
const parentOf = (pid: number): number => {
  try {
    // "pid (name) state ppid …"; a name may hold spaces and brackets.
    return Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ')[1])
  } catch {
    // It ended in the meantime.
    return -1
  }
}
/** A process that has ended but is not waited for yet (a zombie) runs no more. */
const runs = (pid: number): boolean => {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

describe.runIf(process.platform === 'linux')('expertmesh up', () => {
  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('%s ends every process, with exit code 0', async (signal) => {
    const cluster = await startCluster({ workers: 2 })
    const members = childrenOf(cluster.process.pid!)
    expect(members.length).toBe(3)
    cluster.process.kill(signal)
    const [code] = await once(cluster.process, 'exit')
    expect(code).toBe(0)
    expect(members.filter(runs)).toEqual([])
  })

  test('no process outlives it even when it is killed outright', async () => {
    const cluster = await startCluster({ workers: 2 })
    const members = childrenOf(cluster.process.pid!)
    expect(members.length).toBe(3)
    cluster.process.kill('SIGKILL')
    await expect.poll(() => members.filter(runs), { timeout: 20_000 }).toEqual([])
  })

  test('killed while it is starting, it leaves nothing either', async () => {
    const args = ['up', '--model', demo, '--workers', '2', '--listen', '127.0.0.1:0']
    const child = spawn(process.execPath, [main, ...args], { stdio: 'ignore' })
    await expect.poll(() => childrenOf(child.pid!).length, { timeout: 20_000 }).toBeGreaterThan(0)
    const members = childrenOf(child.pid!)
    child.kill('SIGKILL')
    await expect.poll(() => members.filter(runs), { timeout: 20_000 }).toEqual([])
  })

  test('a gateway that dies takes the rest down, and the exit code says so', async () => {
    const cluster = await startCluster({ workers: 1 })
    const members = childrenOf(cluster.process.pid!)
    const gateway = members.find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('gateway'))
    process.kill(gateway!, 'SIGKILL')
    const [code] = await once(cluster.process, 'exit')
    expect(code).toBe(1)
    expect(cluster.log()).toContain('gateway ended by SIGKILL')
    expect(members.filter(runs)).toEqual([])
  })

  test('an address in use is named', async () => {
    const cluster = await startCluster({ workers: 0 })
    const second = await expertmesh('up', '--model', demo, '--workers', '0', '--listen', new URL(cluster.url).host)
    expect(await cluster.stop()).toBe(0)
    expect(second.code).toBe(1)
    expect(second.err).toContain(new URL(cluster.url).port)
  })
})

describe('npm start', () => {
  test('with a prompt streams its completion and ends with 0', async () => {
    const prompt = 'In the beginning God'
    const child = spawn('npm', ['start', '--', prompt], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
    const { code, out } = await finish(child)
    expect(code).toBe(0)
    const last = ['generate', '--model', demo, '--prompt', prompt, '--temperature', '0', '--max-tokens', '40']
    expect(out.endsWith(`\n${prompt}${(await expertmesh(...last)).out}`)).toBe(true)
  })
})
