import { describe, expect, it } from 'vitest'
import { beamsMax } from '../../../../services/gateway/accept/fields.ts'
import { acceptChat, acceptCompletion } from '../../../../services/gateway/accept/request.ts'
import { type Served, samplingDefaults } from '../../../../services/gateway/accept/served.ts'
import { Code } from '../../../../shared/errors.ts'
import { readAlphabet } from '../../../support/alphabet.ts'
import { refusal } from '../../../support/refusal.ts'

const plain = await readAlphabet()
const complete = (body: object, served: Served = plain) => acceptCompletion(served, { prompt: 'ab', ...body }, 'x')
const searchOf = (body: object, served: Served = plain) => complete(body, served).requests[0].search
const refused = (body: object, served: Served = plain) => refusal(() => complete(body, served))

describe('a beam search', () => {
  it('is asked for by a number of beams, by transformers’ or older vLLM’s name', () => {
    expect(searchOf({ num_beams: 4 })).toEqual({ beams: 4, lengthPenalty: 1, earlyStopping: false })
    expect(searchOf({ use_beam_search: true, best_of: 3 })).toMatchObject({ beams: 3 })
    expect(searchOf({ use_beam_search: true, num_beams: 5 })).toMatchObject({ beams: 5 })
    expect(searchOf({ num_beams: 2, length_penalty: -0.5, early_stopping: 'never', temperature: 0 })).toEqual({
      beams: 2,
      lengthPenalty: -0.5,
      earlyStopping: 'never',
    })
  })

  it('is none with one beam, or where nobody asks', () => {
    for (const body of [{}, { num_beams: 1 }, { use_beam_search: false }, { num_beams: null }, { best_of: 1 }])
      expect(searchOf(body)).toBe(null)
  })

  it.each([
    [{ use_beam_search: true }, 'use_beam_search'],
    [{ use_beam_search: false, num_beams: 2 }, 'use_beam_search'],
    [{ best_of: 2 }, 'best_of'],
    [{ num_beams: 0 }, 'num_beams'],
    [{ num_beams: beamsMax + 1 }, 'num_beams'],
    [{ num_beams: 2, early_stopping: 'maybe' }, 'early_stopping'],
    [{ num_beams: 2, length_penalty: 11 }, 'length_penalty'],
    [{ length_penalty: 1 }, 'length_penalty'],
    [{ num_beams: 1, early_stopping: true }, 'early_stopping'],
  ])('%j is refused, naming %s', (body, param) => {
    expect(refused(body)).toMatchObject({ code: Code.INVALID_ARGUMENT, param })
  })

  it.each([
    ['temperature', { temperature: 0.5 }],
    ['n', { n: 2 }],
    ['stop', { stop: 'x' }],
    ['logit_bias', { logit_bias: { 1: 1 } }],
    ['presence_penalty', { presence_penalty: 1 }],
    ['frequency_penalty', { frequency_penalty: -1 }],
    ['repetition_penalty', { repetition_penalty: 1.1 }],
    ['echo', { echo: true, logprobs: 1 }],
  ])('does not go with %s', (param, body) => {
    expect(refused({ num_beams: 2, ...body })).toMatchObject({ code: Code.INVALID_ARGUMENT, param })
  })

  it('is the default where generation_config.json says so and the request says nothing of drawing', () => {
    const defaults = samplingDefaults({ num_beams: 4, length_penalty: 2, early_stopping: true })
    const searching = { ...plain, defaults }
    expect(searchOf({}, searching)).toEqual({ beams: 4, lengthPenalty: 2, earlyStopping: true })
    expect(searchOf({ num_beams: 2 }, searching)).toMatchObject({ beams: 2, lengthPenalty: 2 })
    for (const body of [{ temperature: 0 }, { top_p: 0.5 }, { seed: 1 }, { stop: 'x' }, { n: 2 }, { num_beams: 1 }])
      expect(searchOf(body, searching)).toBe(null)
    expect(samplingDefaults({ num_beams: 4, do_sample: true }).beams).toBe(1)
    expect(refusal(() => samplingDefaults({ num_beams: 0 })).message).toContain('num_beams')
  })

  it('goes with a chat', () => {
    const chat = { takesTools: false, render: () => 'ab' }
    const { requests } = acceptChat(
      { ...plain, chat },
      { messages: [{ role: 'user', content: 'a' }], num_beams: 3 },
      'x',
    )
    expect(requests[0].search).toMatchObject({ beams: 3 })
  })
})

describe('beams and what they need', () => {
  const room = { sequences: 8, cacheBlocks: 4, blockRows: 16 }
  const small: Served = { ...plain, room }

  it('are as many as sequences run at a time, at most', () => {
    expect(searchOf({ num_beams: 8, max_tokens: 1 }, { ...small, room: { ...room, cacheBlocks: 8 } })).not.toBe(null)
    expect(refused({ num_beams: 9, max_tokens: 1 }, small).message).toContain('8 sequences at most')
  })

  it('fit the KV cache with the longest output, or are refused with both numbers', () => {
    // Of 32 tokens the last is never looked back at.
    const prompt = new Array(17).fill(97)
    expect(searchOf({ prompt, num_beams: 2, max_tokens: 16 }, small)).not.toBe(null)
    const error = refused({ prompt, num_beams: 2, max_tokens: 17 }, small)
    expect(error).toMatchObject({ code: Code.INVALID_ARGUMENT, param: 'num_beams' })
    expect(error.message).toContain('2 beams of 33 tokens take 6 blocks of the KV cache, which has 4')
    expect(searchOf({ prompt, max_tokens: 40 }, small)).toBe(null)
  })

  it('lie beside their source', () => {
    const encoder = { layers: 1, start: 7, forcedFirst: null, forcedLast: null, suppressed: [], suppressedFirst: [] }
    const reading = { ...small, config: { ...small.config, encoder } }
    const prompt = new Array(32).fill(97)
    expect(searchOf({ prompt, num_beams: 2, max_tokens: 16 }, reading)).not.toBe(null)
    expect(refused({ prompt, num_beams: 2, max_tokens: 17 }, reading).message).toContain('beside a source of 32')
  })
})
