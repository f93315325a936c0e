import type OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import { errorsMax, linesMax, readLines } from '../../../../../services/gateway/accept/batches/lines.ts'
import { acceptChat, acceptCompletion } from '../../../../../services/gateway/accept/request.ts'
import { readAlphabet } from '../../../../support/alphabet.ts'
import { seeded } from '../../../../support/random.ts'

const served = await readAlphabet()
const completions = '/v1/completions'
const read = (text: string) => readLines(text, completions, (body) => acceptCompletion(served, body, 'x'))

const line = (custom_id: unknown, more: object = {}): string =>
  JSON.stringify({ custom_id, method: 'POST', url: completions, body: { prompt: 'ab', max_tokens: 2 }, ...more })

describe('the lines of a batch', () => {
  it('are its requests, in order; white space between them is none', async () => {
    const { lines, errors } = await read(`\n${line('b')}\r\n  \n${line('a')}\n`)
    expect(errors).toEqual([])
    expect(lines).toEqual(['b', 'a'].map((customId) => ({ customId, body: { prompt: 'ab', max_tokens: 2 } })))
  })

  it.each([
    ['{', 'invalid_json_line', null, 'not JSON'],
    ['[]', 'invalid_request', null, 'JSON object'],
    ['null', 'invalid_request', null, 'JSON object'],
    [line(3), 'invalid_request', 'custom_id', 'string'],
    [line(''), 'invalid_request', 'custom_id', 'empty'],
    [line('x'.repeat(513)), 'invalid_request', 'custom_id', 'at most 512'],
    [line('a', { method: 'GET' }), 'invalid_request', 'method', 'POST'],
    [line('a', { url: '/v1/chat/completions' }), 'mismatched_url', 'url', completions],
    [line('a', { body: 'ab' }), 'invalid_request', 'body', 'JSON object'],
    [line('a', { body: { prompt: 'ab', stream: true } }), 'invalid_request', 'body.stream', 'stream'],
    [line('a', { body: { prompt: 'ab', max_tokens: 0 } }), 'invalid_request', 'max_tokens', 'at least 1'],
    [line('a', { body: { prompt: [999] } }), 'invalid_request', 'prompt', '999'],
    [line('a', { body: { prompt: 'ab', model: 'other' } }), 'model_not_found', 'model', 'other'],
    [line('a', { body: { prompt: 'ab', max_tokens: 9e6 } }), 'context_length_exceeded', 'max_tokens', 'context'],
  ])('%s is told by its number, field and reason', async (text, code, param, words) => {
    const { lines, errors } = await read(`${line('first')}\n\n${text}\n${line('last')}`)
    expect(lines).toEqual([])
    expect(errors).toEqual([{ code, param, line: 3, message: expect.stringContaining(words) }])
  })

  it('of chats are checked as chats', async () => {
    const chat = (text: string) => readLines(text, '/v1/chat/completions', (body) => acceptChat(served, body, 'x'))
    const text = line('a', { url: '/v1/chat/completions', body: { messages: [] } })
    expect((await chat(text)).errors).toMatchObject([{ param: 'messages', line: 1 }])
  })

  it('have each its own custom_id, in random cases', async () => {
    const next = seeded(5)
    for (let round = 0; round < 50; round++) {
      const ids = Array.from({ length: 1 + next(12) }, () => `id ${next(8)}`)
      const repeated = ids.flatMap((id, at) => (ids.indexOf(id) < at ? [at + 1] : []))
      const { lines, errors } = await read(ids.map((id) => line(id)).join('\n'))
      expect(errors.map(({ line }) => line)).toEqual(repeated)
      expect(errors.every(({ code }) => code === 'duplicate_custom_id')).toBe(true)
      expect(lines.map(({ customId }) => customId)).toEqual(repeated.length > 0 ? [] : ids)
    }
  })

  it('are at least one and at most 50,000', async () => {
    expect((await read(' \n')).errors).toMatchObject([{ code: 'empty_file', line: null }])
    const least = (count: number) =>
      readLines(Array.from({ length: count }, (_, at) => line(String(at))).join('\n'), completions, () => {})
    expect((await least(linesMax)).lines.length).toBe(linesMax)
    expect(await least(linesMax + 1)).toMatchObject({ lines: [], errors: [{ code: 'too_many_requests', line: null }] })
  })

  it('are told of up to a hundred errors, as the official client knows them', async () => {
    const { errors } = await read('{\n'.repeat(errorsMax + 5))
    const told: OpenAI.Batches.BatchError[] = errors
    expect(told.map(({ line }) => line)).toEqual(Array.from({ length: errorsMax }, (_, at) => at + 1))
  })

  it('let a fault of the check itself through', async () => {
    const failing = (): never => {
      throw new RangeError('a bug')
    }
    await expect(readLines(line('a'), completions, failing)).rejects.toThrow(RangeError)
  })
})
