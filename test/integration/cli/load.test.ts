import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Cluster, startCluster } from '../../support/cluster.ts'
import { type Run, startCommand } from '../../support/run.ts'

const dir = mkdtempSync(join(tmpdir(), 'load-'))
const inDir = (name: string): string => join(dir, name)
let cluster: Cluster

beforeAll(async () => {
  cluster = await startCluster({ workers: 2, args: ['--max-sequences', '4', '--queue-limit', '16'] })
})
afterAll(async () => {
  rmSync(dir, { recursive: true })
  expect(await cluster?.stop()).toBe(0)
})

type Result = Record<string, number> & { errors: Record<string, number>; first_errors: Record<string, string> }

const load = async (...flags: string[]): Promise<{ run: Run; result: Result }> => {
  const file = inDir('result.json')
  rmSync(file, { force: true })
  const run = await startCommand('load', '--url', cluster.url, '--json', file, ...flags).ended
  return { run, result: JSON.parse(readFileSync(file, 'utf8')) }
}

describe('expertmesh load on a cluster', () => {
  test('a closed loop checks every token and times each of them', async () => {
    const { run, result } = await load(
      ...['--concurrency', '6', '--requests', '24', '--distinct', '8', '--check'],
      ...['--input-len', '12', '--output-len', '10'],
    )
    expect(run.code, run.out + run.err).toBe(0)
    expect(result).toMatchObject({
      completed: 24,
      failed: 0,
      total_input: 24 * 12,
      total_output: 24 * 10,
      samples_ttft: 24,
      samples_tpot: 24,
      samples_itl: 24 * 9,
      samples_e2el: 24,
      most_in_flight: 6,
      resumed_streams: 0,
    })
    expect(result.mean_ttft_ms).toBeGreaterThan(0)
    expect(result.mean_e2el_ms).toBeGreaterThan(result.mean_ttft_ms)
    expect(result.p99_ttft_ms).toBe(result.max_ttft_ms)
    expect(result.total_token_throughput).toBeCloseTo((24 * 22) / result.duration)
    expect(run.out).toMatch(/^Successful requests: +24$/m)
    expect(run.out).toMatch(/^=+ Serving Benchmark Result =+$/m)
  })

  test('an open loop with drawn lengths and seeded sampling gives the bits of a golden file', async () => {
    const golden = inDir('golden.json')
    const shape = ['--requests', '20', '--input-len', '20~0.5/60', '--output-len', '4-12', '--temperature', '0.8']
    const written = await load(...shape, '--write-golden', golden, '--concurrency', '2')
    expect(written.run.code, written.run.out).toBe(0)
    const { run, result } = await load(...shape, '--golden', golden, '--rate', '15')
    expect(run.code, run.out).toBe(0)
    expect(result).toMatchObject({ completed: 20, failed: 0, total_output: written.result.total_output })
    expect(result.total_input).toBe(written.result.total_input)

    const answers = JSON.parse(readFileSync(golden, 'utf8'))
    const [key] = Object.keys(answers.answers)
    answers.answers[key].ids[2] += 1
    writeFileSync(golden, JSON.stringify(answers))
    const wrong = await load(...shape, '--golden', golden, '--rate', '15')
    expect(wrong.run.code).toBe(1)
    expect(wrong.result).toMatchObject({ completed: 19, failed: 1, errors: { wrong: 1 } })
    expect(wrong.result.first_errors.wrong).toMatch(/^token 2 is \d+ and should be \d+$/)
  })

  test('a trace is replayed with its prompts and lengths', async () => {
    const trace = inDir('trace.jsonl')
    const lines = [
      { at_ms: 300, prompt: 'The file', max_tokens: 3 },
      { at_ms: 0, prompt_tokens: 30, max_tokens: 5 },
      { at_ms: 100, prompt: [7, 8, 9], max_tokens: 7 },
    ]
    writeFileSync(trace, lines.map((line) => JSON.stringify(line)).join('\n'))
    const { run, result } = await load('--trace', trace, '--check')
    expect(run.code, run.out + run.err).toBe(0)
    expect(result).toMatchObject({ completed: 3, total_output: 15, arrivals_waited: 0 })
    expect(result.total_input).toBeGreaterThanOrEqual(34)
    expect(result.duration).toBeGreaterThanOrEqual(0.3)
  })

  test('prompts of a file are sent in turn', async () => {
    const prompts = inDir('prompts.jsonl')
    writeFileSync(prompts, '{"prompt":"And it came to pass","max_tokens":2}\n{"prompt":[5,6],"max_tokens":4}\n')
    const { run, result } = await load('--prompts', prompts, '--requests', '6', '--concurrency', '3')
    expect(run.code, run.out).toBe(0)
    expect(result).toMatchObject({ completed: 6, total_output: 3 * 2 + 3 * 4 })
  })

  test('plain requests of words work too', async () => {
    const flags = ['--plain', '--requests', '4', '--input-len', '5', '--output-len', '6']
    const { run, result } = await load(...flags)
    expect(run.code, run.out).toBe(0)
    expect(result).toMatchObject({ completed: 4 })
    expect(result.total_output).toBeGreaterThan(0)
    expect(result.total_output).toBeLessThanOrEqual(24)
  })

  test('what a full queue refuses is counted as refused, and the rest is right', async () => {
    const flags = ['--concurrency', '40', '--requests', '120', '--distinct', '4', '--check', '--output-len', '20']
    const { run, result } = await load(...flags, '--allow-refused')
    expect(run.code, run.out).toBe(0)
    expect(result.errors.refused).toBeGreaterThan(0)
    expect(result.completed).toBe(120 - result.errors.refused)
    expect(run.out).toContain('Failed, refused (429)')
  })

  test('Ctrl-C ends it with what was measured so far', async () => {
    const file = inDir('stopped.json')
    const { process, ended } = startCommand(
      ...['load', '--url', cluster.url, '--concurrency', '3', '--duration', '3600', '--json', file],
    )
    let err = ''
    await new Promise<void>((resolve) => {
      process.stderr!.on('data', (text) => {
        err += text
        if (/load: \d+ s, [1-9]\d* done, \d+ in flight, 0 failed/.test(err)) resolve()
      })
    })
    process.kill('SIGINT')
    const { code, out } = await ended
    expect(code, out).toBe(0)
    const result = JSON.parse(readFileSync(file, 'utf8')) as Result
    expect(result.completed).toBeGreaterThan(0)
    expect(result).toMatchObject({ failed: 0, stopped: 3 })
    expect(out).toContain('Under way when the run was stopped: 3.')
  })
})

describe('expertmesh load', () => {
  test.each([
    ['a server that is not there', ['--url', 'http://127.0.0.1:9'], 'start the server'],
    [
      'a file that is not there',
      ['--url', 'http://127.0.0.1:9', '--prompts', 'absent.jsonl'],
      'cannot read absent.jsonl',
    ],
    ['flags that contradict each other', ['--rate', '1', '--concurrency', '1'], 'choose one of --rate'],
  ])('%s ends with a sentence and an exit code', async (_, flags, sentence) => {
    const { code, out, err } = await startCommand('load', ...flags).ended
    expect({ code, out }).toEqual({ code: 1, out: '' })
    expect(err).toContain(sentence)
    expect(err).not.toContain('    at ')
  })
})
