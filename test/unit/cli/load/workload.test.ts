import { describe, expect, test } from 'vitest'
import { lengths } from '../../../../services/cli/load/lengths.ts'
import { askedOf, type Draw, parseLines, randomWorkload } from '../../../../services/cli/load/workload.ts'

const draw: Draw = { seed: 3, input: lengths('5-9'), output: lengths('2-4'), vocabulary: 50, words: false }
const manner = {
  model: 'm',
  endpoint: 'completions',
  temperature: 0,
  seed: 3,
  check: true,
  plain: false,
  resume: false,
} as const
const bodyOf = (...of: Parameters<typeof askedOf>): string => askedOf(...of).body
type Asked = { prompt: number[]; max_tokens: number }

describe('random requests', () => {
  test('have the lengths and ids asked for, and repeat after the distinct ones', () => {
    const workload = randomWorkload(draw, 40)
    const seen = new Set<string>()
    for (let index = 0; index < 40; index++) {
      const { prompt, max_tokens } = workload.at(index) as Asked
      expect(prompt.length).toBeGreaterThanOrEqual(5)
      expect(prompt.length).toBeLessThanOrEqual(9)
      expect([2, 3, 4]).toContain(max_tokens)
      expect(prompt.every((id) => Number.isInteger(id) && id >= 0 && id < 50)).toBe(true)
      expect(workload.at(index + 40)).toEqual({ prompt, max_tokens })
      seen.add(prompt.join())
    }
    expect(seen.size).toBe(40)
  })

  test('are others with another seed', () => {
    expect(randomWorkload(draw, 9).at(1)).toEqual(randomWorkload(draw, 9).at(1))
    expect(randomWorkload({ ...draw, seed: 4 }, 9).at(1)).not.toEqual(randomWorkload(draw, 9).at(1))
  })

  test('are so many words where ids cannot be sent', () => {
    const { prompt } = randomWorkload({ ...draw, words: true, input: lengths('6') }, 1).at(0) as { prompt: string }
    expect(prompt.split(' ').length).toBe(6)
  })
})

describe('lines of a file', () => {
  test('are objects; empty lines are none', () => {
    expect(parseLines('{"prompt":"a","max_tokens":3}\n\n {"prompt":[1]}\r\n', 'f')).toEqual([
      { prompt: 'a', max_tokens: 3 },
      { prompt: [1] },
    ])
  })

  test.each([
    ['{"prompt":"a"}\n{', 'f line 2:'],
    ['[1]', 'f line 1: no object'],
    ['null', 'f line 1: no object'],
    ['{"max_tokens":0}', 'f line 1: max_tokens'],
    ['{}\n\n{"prompt_tokens":1.5}', 'f line 3: prompt_tokens'],
    ['{"at_ms":-1}', 'f line 1: at_ms'],
    ['{"at_ms":"1"}', 'f line 1: at_ms'],
    ['\n', 'f has no line'],
  ])('%j is refused by line', (text, message) => {
    expect(() => parseLines(text, 'f')).toThrow(message)
  })
})

describe('a body', () => {
  const fields = { prompt: [1, 2], max_tokens: 3 }

  test('asks for exact lengths, and for ids and digests to check', () => {
    expect(JSON.parse(bodyOf(fields, manner))).toEqual({
      model: 'm',
      prompt: [1, 2],
      max_tokens: 3,
      temperature: 0,
      seed: 3,
      ignore_eos: true,
      stream: true,
      stream_options: { include_usage: true },
      return_token_ids: true,
      logits_sha256: true,
    })
  })

  test('lets a line decide what it names, but not how the answer comes', () => {
    const body = JSON.parse(bodyOf({ ...fields, temperature: 0.5, ignore_eos: false, stream: false }, manner))
    expect(body).toMatchObject({ temperature: 0.5, ignore_eos: false, stream: true })
  })

  test('makes a message of a text for chats, and refuses ids there', () => {
    const chat = { ...manner, endpoint: 'chat' } as const
    expect(JSON.parse(bodyOf({ prompt: 'a b', max_tokens: 1 }, chat)).messages).toEqual([
      { role: 'user', content: 'a b' },
    ])
    const messages = [{ role: 'system', content: 's' }]
    expect(JSON.parse(bodyOf({ messages, max_tokens: 1 }, chat)).messages).toEqual(messages)
    expect(() => bodyOf(fields, chat)).toThrow('chats take text')
  })

  test('has no field beyond OpenAI’s where it is to be plain', () => {
    const body = JSON.parse(bodyOf({ prompt: 'a', max_tokens: 1 }, { ...manner, plain: true }))
    expect(Object.keys(body).sort()).toEqual([
      'max_tokens',
      'model',
      'prompt',
      'seed',
      'stream',
      'stream_options',
      'temperature',
    ])
  })

  test('has the same key however its answer is delivered, and another for another question', () => {
    const { body, key } = askedOf(fields, manner)
    const resumed = askedOf(fields, { ...manner, resume: true, check: false })
    expect(resumed.key).toBe(key)
    expect(JSON.parse(resumed.body).reconnect_grace_seconds).toBeGreaterThan(0)
    expect(JSON.parse(body)).not.toHaveProperty('reconnect_grace_seconds')
    const others = [askedOf(fields, { ...manner, seed: 4 }), askedOf({ ...fields, max_tokens: 4 }, manner)]
    for (const other of others) expect(other.key).not.toBe(key)
  })
})
