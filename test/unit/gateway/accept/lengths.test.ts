import { describe, expect, it } from 'vitest'
import { acceptChat, acceptCompletion } from '../../../../services/gateway/accept/request.ts'
import { type Served, samplingDefaults } from '../../../../services/gateway/accept/served.ts'
import { Code } from '../../../../shared/errors.ts'
import { readAlphabet } from '../../../support/alphabet.ts'
import { refusal } from '../../../support/refusal.ts'

const plain = await readAlphabet()
const encoder = { layers: 1, start: 7, forcedFirst: null, forcedLast: null, suppressed: [], suppressedFirst: [] }
const translator: Served = { ...plain, config: { ...plain.config, encoder } }
const talking: Served = { ...plain, chat: { takesTools: false, render: () => 'hi' } }

const complete = (body: object, served: Served = plain) => acceptCompletion(served, { prompt: 'ab', ...body }, 'x')
const chat = (body: object) => acceptChat(talking, { messages: [{ role: 'user', content: 'hi' }], ...body }, 'x')

describe('max_tokens', () => {
  it('is 16 for completions and the rest of the context for chats', () => {
    expect(complete({}).requests[0].maxTokens).toBe(16)
    expect(complete({ prompt: new Array(60).fill(1) }).requests[0].maxTokens).toBe(4)
    expect(acceptCompletion(plain, { prompt: 'ab' }, 'x', null).requests[0].maxTokens).toBe(61)
    const { requests } = chat({})
    expect(requests[0].maxTokens).toBe(64 - requests[0].prompt.length)
  })

  it('may be called max_completion_tokens, which goes first', () => {
    expect(complete({ max_tokens: 3 }).requests[0].maxTokens).toBe(3)
    expect(chat({ max_tokens: 3, max_completion_tokens: 5 }).requests[0].maxTokens).toBe(5)
  })

  it.each([0, -1, 1.5, '3', 2 ** 60])('%j is refused', (value) => {
    for (const param of ['max_tokens', 'max_completion_tokens'])
      expect(refusal(() => complete({ [param]: value }))).toMatchObject({ code: Code.INVALID_ARGUMENT, param })
  })

  it('must fit the context with the prompt', () => {
    expect(complete({ max_tokens: 61 }).requests[0].maxTokens).toBe(61)
    expect(refusal(() => complete({ max_tokens: 62 }))).toMatchObject({
      param: 'max_tokens',
      reason: 'context_length_exceeded',
    })
  })
})

describe('the length of an encoder–decoder’s output', () => {
  it('is what generation_config.json says where nobody asks, without the start id that it counts', () => {
    const lengths = (said: object, body: object = {}, served = translator) => {
      const { maxTokens, minTokens } = complete(body, { ...served, defaults: samplingDefaults(said) }).requests[0]
      return [maxTokens, minTokens]
    }
    expect(lengths({})).toEqual([16, 0])
    expect(lengths({ max_length: 30, min_length: 10 })).toEqual([29, 9])
    expect(lengths({ max_length: 30, max_new_tokens: 5, min_length: 1, min_new_tokens: 2 })).toEqual([5, 2])
    expect(lengths({ max_length: 1, min_length: 10 })).toEqual([1, 1])
    expect(lengths({ max_length: 1000 })).toEqual([63, 0])
    expect(lengths({ max_length: 30, min_length: 10 }, { max_tokens: 4 })).toEqual([4, 4])
    expect(lengths({ max_length: 30, min_length: 10 }, { min_tokens: 0 })).toEqual([29, 0])
    expect(lengths({ max_length: 30, min_length: 10 }, {}, plain)).toEqual([16, 0])
    for (const [key, value] of [
      ['max_length', 0],
      ['min_length', -1],
      ['max_new_tokens', 1.5],
    ] as const)
      expect(refusal(() => samplingDefaults({ [key]: value })).message).toContain(key)
  })
})
