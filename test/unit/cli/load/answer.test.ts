import { describe, expect, test } from 'vitest'
import { openAnswer } from '../../../../services/cli/load/answer.ts'
import { seeded } from '../../../support/random.ts'

const event = (data: unknown, id?: number) => ({
  data: typeof data === 'string' ? data : JSON.stringify(data),
  ...(id === undefined ? {} : { id: String(id) }),
})
const token = (index: number, id: number, more: object = {}) =>
  event({ choices: [{ text: 'x', token_ids: [id], finish_reason: null, ...more }] }, index)

describe('an answer', () => {
  test('ids, times and gaps are those of the events, in random cases', () => {
    const next = seeded(7)
    for (let round = 0; round < 200; round++) {
      const answer = openAnswer()
      const tokens = Array.from({ length: 1 + next(12) }, () => ({ id: next(50), pauseMs: next(100) }))
      expect(answer.hear(event({ choices: [{ text: '', token_ids: [], prompt_token_ids: [1] }] }), 5)).toBeNull()
      let atMs = 10
      const times: number[] = []
      for (const [index, { id, pauseMs }] of tokens.entries()) {
        atMs += pauseMs
        times.push(atMs)
        const last = index === tokens.length - 1
        const end = last ? { finish_reason: 'length', logits_sha256: 'ab' } : {}
        expect(answer.heard.complete).toBe(false)
        expect(answer.hear(token(index, id, end), atMs)).toBeNull()
      }
      expect(answer.heard).toMatchObject({
        complete: true,
        tokens: tokens.length,
        lastIndex: tokens.length - 1,
        ids: tokens.map(({ id }) => id),
        firstMs: times[0],
        lastMs: times.at(-1),
        gapsMs: tokens.slice(1).map(({ pauseMs }) => pauseMs),
        logitsSha256: 'ab',
      })
    }
  })

  test('a token that is lost or repeated is wrong', () => {
    for (const [index, due] of [
      [0, 1],
      [2, 1],
    ]) {
      const answer = openAnswer()
      answer.hear(token(0, 4), 1)
      expect(answer.hear(token(index, 4), 2)).toMatchObject({
        kind: 'wrong',
        again: false,
        message: `token ${index} came where token ${due} was due`,
      })
      expect(answer.heard.ids).toEqual([4])
    }
  })

  test('a server without ids is counted by events with text, and by its own count', () => {
    const answer = openAnswer()
    answer.hear(event({ choices: [{ delta: { role: 'assistant', content: '' } }] }), 1)
    answer.hear(event({ choices: [{ delta: { content: 'a' } }] }), 2)
    answer.hear(event({ choices: [{ delta: { content: 'b' } }] }), 3)
    answer.hear(event({ choices: [{ delta: {}, finish_reason: 'stop' }] }), 4)
    answer.hear(event({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 2 } }), 5)
    expect(answer.heard).toMatchObject({ tokens: 2, firstMs: 2, lastMs: 3, complete: true, ids: null, lastIndex: null })
    expect(answer.heard.usage).toEqual({ prompt_tokens: 3, completion_tokens: 2 })
  })

  test('an id that is no index says where to go on, and is none', () => {
    const answer = openAnswer()
    expect(answer.hear({ ...event({ choices: [{ text: '', token_ids: [] }] }), id: 'p' }, 1)).toBeNull()
    expect(answer.heard).toMatchObject({ lastId: 'p', lastIndex: null })
    expect(answer.hear(token(0, 4), 2)).toBeNull()
    expect(answer.heard).toMatchObject({ lastId: '0', lastIndex: 0 })
  })

  test('[DONE] completes it', () => {
    const answer = openAnswer()
    expect(answer.hear(event('[DONE]'), 1)).toBeNull()
    expect(answer.heard.complete).toBe(true)
  })

  test.each([
    [{ message: 'gone', type: 'server_error', param: null, code: null }, true],
    [{ message: 'gone', code: 'UNAVAILABLE' }, true],
    [{ message: 'bug', type: 'server_error', code: 'internal_error' }, false],
    [{ message: 'too long', type: 'invalid_request_error', code: null }, false],
  ])('%j in the stream is a fault', (error, again) => {
    expect(openAnswer().hear(event({ error }), 1)).toEqual({ kind: 'event', message: error.message, again })
  })

  test.each(['{', 'null', '3'])('%j is no event of such a stream', (data) => {
    expect(openAnswer().hear(event(data), 1)).toMatchObject({ kind: 'broken' })
  })
})
