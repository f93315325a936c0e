import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { type Fragile, type FragileOptions, openFragile } from '../../support/fragile.ts'
import { type Run, startCommand } from '../../support/run.ts'

const dir = mkdtempSync(join(tmpdir(), 'resume-'))
afterAll(() => rmSync(dir, { recursive: true }))

let fragile: Fragile | undefined
afterEach(async () => {
  await fragile?.close()
  fragile = undefined
})

type Result = Record<string, number> & { errors: Record<string, number>; first_errors: Record<string, string> }

const OUTPUT = 20
const REQUESTS = 30

const load = async (
  options: FragileOptions,
  ...flags: string[]
): Promise<{ run: Run; result: Result; from: Fragile }> => {
  fragile = await openFragile(options)
  const urls = fragile.urls.flatMap((url) => ['--url', url])
  const file = join(dir, 'result.json')
  rmSync(file, { force: true })
  const shape = ['--requests', String(REQUESTS), '--output-len', String(OUTPUT), '--concurrency', '5', '--json', file]
  const run = await startCommand('load', ...urls, ...shape, ...flags).ended
  return { run, result: JSON.parse(readFileSync(file, 'utf8')), from: fragile }
}

const golden = join(dir, 'golden.json')
const writtenGolden = async (): Promise<void> => {
  const { run } = await load({}, '--write-golden', golden)
  expect(run.code, run.err).toBe(0)
  await fragile!.close()
}

describe('a broken stream', () => {
  test.each(['reset', 'unavailable'] as const)(
    'that ends by %s is taken up at the next server after its last token, and no token is lost or repeated',
    async (how) => {
      await writtenGolden()
      // Each of the first three connections breaks, the second before its first token.
      const after = [3, 0, 7]
      const { run, result, from } = await load(
        { servers: 3, breakOf: (_, connection) => (connection < 3 ? { after: after[connection], how } : null) },
        '--resume',
        '--golden',
        golden,
      )
      expect(run.code, run.out).toBe(0)
      expect(result).toMatchObject({
        completed: REQUESTS,
        failed: 0,
        total_output: REQUESTS * OUTPUT,
        samples_itl: REQUESTS * (OUTPUT - 1),
        resumed_streams: REQUESTS,
        resumes: 3 * REQUESTS,
        repeated_requests: 0,
      })
      expect(run.out).toContain(`Resumed streams: ${REQUESTS}, taken up again ${3 * REQUESTS} times`)
      expect(from.requests.size).toBe(REQUESTS)
      expect(from.resumedAfter.length).toBe(3 * REQUESTS)
      // A reset may overtake the tokens before it; then the stream goes on from where it was heard.
      if (how === 'unavailable') expect(new Set(from.resumedAfter)).toEqual(new Set(['2', '9']))
    },
  )

  test('with no token yet is taken up from the beginning', async () => {
    const { run, result, from } = await load(
      { servers: 2, breakOf: (_, connection) => (connection === 0 ? { after: 0, how: 'reset' } : null) },
      '--resume',
    )
    expect(run.code, run.out).toBe(0)
    expect(result).toMatchObject({ completed: REQUESTS, resumes: REQUESTS })
    expect(new Set(from.resumedAfter)).toEqual(new Set([null]))
  })

  test('that only falls silent counts as broken after --stall-ms', async () => {
    const { run, result } = await load(
      { servers: 2, breakOf: (_, connection) => (connection === 0 ? { after: 4, how: 'silence' } : null) },
      '--resume',
      '--stall-ms',
      '200',
    )
    expect(run.code, run.out).toBe(0)
    expect(result).toMatchObject({ completed: REQUESTS, resumes: REQUESTS })
    expect(result.resumed_longest_gap_ms).toBeGreaterThanOrEqual(200)
  })

  test('fails without --resume', async () => {
    const { run, result } = await load({ breakOf: () => ({ after: 4, how: 'reset' }) })
    expect(run.code).toBe(1)
    expect(result).toMatchObject({ completed: 0, failed: REQUESTS, errors: { broken: REQUESTS } })
  })

  test.each([
    ['repeats', -1],
    ['loses', 1],
  ])('whose continuation %s a token is wrong', async (_, shift) => {
    const { run, result } = await load(
      {
        breakOf: (_, connection) => (connection === 0 ? { after: 4, how: 'reset' } : null),
        resumeFrom: (index) => index + shift,
      },
      '--resume',
    )
    expect(run.code).toBe(1)
    expect(result).toMatchObject({ completed: 0, errors: { wrong: REQUESTS } })
    expect(result.first_errors.wrong).toBe(`token ${4 + shift} came where token 4 was due`)
  })

  test('that no server knows any more is lost', async () => {
    const { run, result } = await load(
      {
        breakOf(request, connection) {
          // Forgotten by all, as after an expiry.
          if (connection === 0)
            for (const [id, of] of fragile!.requests) if (of === request) fragile!.requests.delete(id)
          return { after: 2, how: 'reset' }
        },
      },
      '--resume',
      '--concurrency',
      '1',
      '--requests',
      '3',
    )
    expect(run.code).toBe(1)
    expect(result).toMatchObject({ failed: 3, errors: { broken: 3 } })
  })

  test('of a fault that would come again is not taken up', async () => {
    const { run, result, from } = await load({ breakOf: () => ({ after: 4, how: 'failure' }) }, '--resume')
    expect(run.code).toBe(1)
    expect(result).toMatchObject({ failed: REQUESTS, errors: { event: REQUESTS } })
    expect(from.resumedAfter).toEqual([])
  })

  test('that is silent for good ends with the timeout', async () => {
    const flags = ['--resume', '--timeout', '0.5', '--concurrency', String(REQUESTS)]
    const { run, result } = await load({ breakOf: () => ({ after: 4, how: 'silence' }) }, ...flags)
    expect(run.code).toBe(1)
    expect(result).toMatchObject({ failed: REQUESTS, errors: { timeout: REQUESTS } })
  })
})

describe('a request that was not accepted', () => {
  test('is sent again under the same key where nobody listens or the server is away', async () => {
    const away = await openFragile()
    await away.close()
    const { run, result, from } = await load(
      // One in four is turned away by a server that is starting.
      { refuse: (posts) => (posts % 4 === 0 ? { status: 503, message: 'starting' } : null) },
      '--url',
      away.urls[0],
      '--model',
      'fragile',
      '--resume',
    )
    expect(run.code, run.out).toBe(0)
    expect(result).toMatchObject({ completed: REQUESTS, failed: 0, resumes: 0 })
    expect(result.repeated_requests).toBeGreaterThanOrEqual(REQUESTS / 2)
    const keys = [...from.requests.values()].map(({ key }) => key)
    expect(new Set(keys).size).toBe(REQUESTS)
    expect(keys).not.toContain(undefined)
  })

  test('fails by its kind otherwise', async () => {
    const away = await openFragile()
    await away.close()
    const status = (posts: number) => [429, 400, 503][posts % 3]
    const { run, result } = await load(
      { refuse: (posts) => ({ status: status(posts), message: 'not now' }) },
      '--url',
      away.urls[0],
      '--model',
      'fragile',
    )
    expect(run.code).toBe(1)
    expect(result).toMatchObject({
      failed: REQUESTS,
      errors: { unreachable: 15, refused: 5, rejected: 5, server: 5 },
      first_errors: { refused: '429: not now' },
    })
  })

  test('is no failure when refusals are allowed', async () => {
    const { run, result } = await load({ refuse: () => ({ status: 429, message: 'full' }) }, '--allow-refused')
    expect(run.code).toBe(0)
    expect(result).toMatchObject({ completed: 0, failed: REQUESTS, errors: { refused: REQUESTS } })
  })
})
