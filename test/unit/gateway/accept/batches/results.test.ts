import { describe, expect, it } from 'vitest'
import { openBatch } from '../../../../../services/gateway/accept/batches/batch.ts'
import { pageOf, pageQuery } from '../../../../../services/gateway/accept/batches/page.ts'
import { type Result, writeResults } from '../../../../../services/gateway/accept/batches/results.ts'
import { seeded } from '../../../../support/random.ts'

const body = { input_file_id: 'file-1', endpoint: '/v1/completions', completion_window: '24h' } as const
const batch = openBatch('batch_1', body, 1_000)
const objects = (text: string) =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line))

describe('the files of results', () => {
  const lines = ['a', 'b', 'c'].map((customId) => ({ customId, body: {} }))
  const results = new Map<string, Result>([
    ['b', { requestId: 'r2', status: 400, body: { error: { message: 'no' } } }],
    ['a', { requestId: 'r1', status: 200, body: { id: 'cmpl-1', choices: [] } }],
  ])
  const resultOf = (customId: string): Result | null => results.get(customId) ?? null

  it('have successes in one and the rest in the other, in the order of the requests', () => {
    const { output, error } = writeResults({ ...batch, status: 'cancelling' }, lines, resultOf)
    expect(objects(output)).toEqual([
      {
        id: 'batch_1_req_0',
        custom_id: 'a',
        response: { status_code: 200, request_id: 'r1', body: { id: 'cmpl-1', choices: [] } },
        error: null,
      },
    ])
    expect(objects(error)).toEqual([
      {
        id: 'batch_1_req_1',
        custom_id: 'b',
        response: { status_code: 400, request_id: 'r2', body: { error: { message: 'no' } } },
        error: null,
      },
      {
        id: 'batch_1_req_2',
        custom_id: 'c',
        response: null,
        error: { code: 'batch_cancelled', message: expect.any(String) },
      },
    ])
  })

  it('say of what was not answered in time that it expired', () => {
    const { output, error } = writeResults({ ...batch, status: 'in_progress' }, lines, () => null)
    expect(output).toBe('')
    expect(objects(error).map((line) => line.error.code)).toEqual(Array.from({ length: 3 }, () => 'batch_expired'))
  })

  it('have every request once, in random cases', () => {
    const next = seeded(6)
    for (let round = 0; round < 100; round++) {
      const asked = Array.from({ length: next(20) }, (_, at) => ({ customId: `c${at}`, body: {} }))
      const status = new Map(asked.map(({ customId }) => [customId, [200, 404, 500, null][next(4)]]))
      const written = writeResults(batch, asked, (customId) => {
        const code = status.get(customId) ?? null
        return code === null ? null : { requestId: 'r', status: code, body: null }
      })
      const ids = (text: string): string[] => objects(text).map((line) => line.custom_id)
      const good = asked.map(({ customId }) => customId).filter((id) => status.get(id) === 200)
      expect(ids(written.output)).toEqual(good)
      expect(ids(written.error)).toEqual(asked.map(({ customId }) => customId).filter((id) => !good.includes(id)))
    }
  })
})

describe('a list', () => {
  it('is read in parts of any size, each thing once', () => {
    const next = seeded(9)
    for (let round = 0; round < 100; round++) {
      const all = Array.from({ length: next(30) }, (_, at) => ({ id: `b${at}` }))
      const read: { id: string }[] = []
      const limit = 1 + next(7)
      for (let after: string | null = null; ; ) {
        const page: ReturnType<typeof pageOf<{ id: string }>> = pageOf(all, { after, limit })
        read.push(...page.data)
        expect(page).toMatchObject({ first_id: page.data[0]?.id ?? null, last_id: page.data.at(-1)?.id ?? null })
        if (!page.has_more) break
        expect(page.data.length).toBe(limit)
        after = page.last_id
      }
      expect(read).toEqual(all)
    }
  })

  it('has twenty unless told otherwise, and at most a hundred', () => {
    const all = Array.from({ length: 30 }, (_, at) => ({ id: `b${at}` }))
    expect(pageOf(all, {}).data.length).toBe(20)
    expect(pageQuery.parse({ limit: '100' })).toEqual({ limit: 100 })
    for (const limit of ['0', '101', 'x', '1.5']) expect(pageQuery.safeParse({ limit }).success).toBe(false)
  })

  it('does not go on after what is not in it', () => {
    expect(() => pageOf([{ id: 'a' }], { after: 'b' })).toThrow('There is no b here.')
  })
})
