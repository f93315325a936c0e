import { describe, expect, it } from 'vitest'
import { choicesMax } from '../../../../services/gateway/accept/fields.ts'
import { acceptChat, acceptCompletion } from '../../../../services/gateway/accept/request.ts'
import { type Chat, type Served, samplingDefaults } from '../../../../services/gateway/accept/served.ts'
import { Code } from '../../../../shared/errors.ts'
import { readAlphabet } from '../../../support/alphabet.ts'
import { refusal } from '../../../support/refusal.ts'

const plain = await readAlphabet()

const complete = (body: object, served: Served = plain) => acceptCompletion(served, { prompt: 'ab', ...body }, 'x')

const chatTemplate: Chat = {
  takesTools: false,
  render: (messages, { addGenerationPrompt }) =>
    messages.map(({ role, content }) => `${role}:${content}|`).join('') + (addGenerationPrompt ? '>' : ''),
}
const talking: Served = { ...plain, chat: chatTemplate }
const user = [{ role: 'user', content: 'hi' }]
const chat = (body: object, served: Served = talking) => acceptChat(served, { messages: user, ...body }, 'x')

describe('a prompt', () => {
  it('is one text, tokenized with what the tokenizer adds', () => {
    expect(complete({ prompt: 'ab' }).requests.map((request) => request.prompt)).toEqual([[256, 97, 98]])
    expect(complete({ prompt: 'ab', add_special_tokens: false }).requests[0].prompt).toEqual([97, 98])
  })

  it('is several texts, each a choice', () => {
    expect(complete({ prompt: ['a', 'b'] }).requests.map((request) => request.prompt)).toEqual([
      [256, 97],
      [256, 98],
    ])
  })

  it('is ids, taken as they are', () => {
    expect(complete({ prompt: [5, 6] }).requests.map((request) => request.prompt)).toEqual([[5, 6]])
    expect(complete({ prompt: [[5], [6, 7]] }).requests.map((request) => request.prompt)).toEqual([[5], [6, 7]])
  })

  it.each([
    [undefined, 'prompt', 'missing'],
    [null, 'prompt', 'missing'],
    [7, 'prompt', 'must be'],
    [{}, 'prompt', 'must be'],
    [[], 'prompt', 'empty list'],
    [[[]], 'prompt.0', 'empty'],
    [[1, 'a'], 'prompt', 'entry 0'],
    [['a', 1], 'prompt', 'entry 1'],
    [[258], 'prompt', 'from 0 to 257'],
    [[-1], 'prompt', 'from 0 to 257'],
    [[1.5], 'prompt', 'from 0 to 257'],
    [[[1], [2, 999]], 'prompt.1', 'Token id 999'],
  ])('%j is refused, naming %s', (prompt, param, words) => {
    const error = refusal(() => complete({ prompt }))
    expect(error).toMatchObject({ code: Code.INVALID_ARGUMENT, param })
    expect(error.message).toContain(words)
  })

  it('needs at least one token', () => {
    expect(refusal(() => complete({ prompt: '', add_special_tokens: false })).message).toContain('empty')
    expect(complete({ prompt: '' }).requests[0].prompt).toEqual([256])
  })

  it('must leave room for a token in the context', () => {
    const last = complete({ prompt: new Array(63).fill(1) })
    expect(last.requests[0].maxTokens).toBe(1)
    for (const prompt of [new Array(64).fill(1), 'x'.repeat(63), 'x'.repeat(64 * 256 + 1)])
      expect(refusal(() => complete({ prompt }))).toMatchObject({
        code: Code.INVALID_ARGUMENT,
        param: 'prompt',
        reason: 'context_length_exceeded',
      })
  })

  it('as text needs a tokenizer', () => {
    const mute = { ...plain, tokenizer: null }
    expect(refusal(() => complete({}, mute))).toMatchObject({
      code: Code.INVALID_ARGUMENT,
      param: 'prompt',
      message: expect.stringContaining('has no tokenizer.json'),
    })
    expect(complete({ prompt: [1] }, mute)).toMatchObject({ returnTokenIds: true })
    expect(refusal(() => complete({ prompt: [1], stop: 'a' }, mute))).toMatchObject({ param: 'stop' })
  })
})

describe('sampling', () => {
  it("takes the model's defaults", () => {
    expect(complete({}).requests[0].sampling).toMatchObject({
      temperature: 0.7,
      topP: 1,
      topK: 40,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      logitBias: new Map(),
    })
  })

  it('keeps n-grams from coming twice as asked, else as the model says', () => {
    const noRepeat = (body: object, said: object) =>
      complete(body, { ...plain, defaults: samplingDefaults(said) }).requests[0].noRepeatNgram
    expect(noRepeat({}, {})).toBe(0)
    expect(noRepeat({}, { no_repeat_ngram_size: 3 })).toBe(3)
    expect(noRepeat({ no_repeat_ngram_size: 0 }, { no_repeat_ngram_size: 3 })).toBe(0)
    expect(noRepeat({ no_repeat_ngram_size: 2, num_beams: 2 }, {})).toBe(2)
    expect(refusal(() => complete({ no_repeat_ngram_size: -1 }))).toMatchObject({ param: 'no_repeat_ngram_size' })
  })

  it('takes what is asked', () => {
    const asked = {
      temperature: 0,
      top_p: 0.5,
      top_k: -1,
      min_p: 0.1,
      repetition_penalty: 1.2,
      presence_penalty: -2,
      frequency_penalty: 2,
      logit_bias: { '5': -100 },
      seed: 7,
    }
    expect(complete(asked).requests[0].sampling).toEqual({
      temperature: 0,
      topP: 0.5,
      topK: 0,
      minP: 0.1,
      repetitionPenalty: 1.2,
      presencePenalty: -2,
      frequencyPenalty: 2,
      logitBias: new Map([[5, -100]]),
      seed: 7n,
    })
  })

  it('gives every request a seed, the same for its choices and another for the next request', () => {
    const [a, b] = [complete({ n: 2 }), complete({})]
    expect(a.requests[0].sampling.seed).toBe(a.requests[1].sampling.seed)
    expect(a.requests[0].sampling.seed).not.toBe(b.requests[0].sampling.seed)
    expect(complete({ seed: -1 }).requests[0].sampling.seed).toBe(2n ** 64n - 1n)
  })

  it.each([
    { temperature: -0.1 },
    { temperature: '1' },
    { top_p: 1.01 },
    { top_p: -0.1 },
    { top_k: -2 },
    { top_k: 1.5 },
    { min_p: 2 },
    { repetition_penalty: 0 },
    { presence_penalty: 2.1 },
    { frequency_penalty: -2.1 },
    { seed: 1.5 },
    { seed: 'x' },
    { seed: 2 ** 60 },
  ])('%j is refused', (body) => {
    expect(refusal(() => complete(body))).toMatchObject({ code: Code.INVALID_ARGUMENT, param: Object.keys(body)[0] })
  })

  it.each([{ '258': 1 }, { '5': 101 }, { a: 1 }, { '-1': 1 }, { '5': 'x' }])('logit_bias %j is refused', (bias) => {
    expect(refusal(() => complete({ logit_bias: bias })).param).toMatch(/^logit_bias/)
  })

  it('follows generation_config.json only where it samples', () => {
    const config = { temperature: 0.7, top_p: 0.8, top_k: 5, repetition_penalty: 1.1 }
    const lengths = { maxTokens: null, minTokens: 0, noRepeatNgram: 0 }
    const search = { beams: 1, lengthPenalty: 1, earlyStopping: false }
    const plain = { temperature: 1, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1.1, ...search, ...lengths }
    expect(samplingDefaults(config)).toEqual(plain)
    expect(samplingDefaults({ ...config, do_sample: true })).toEqual({ ...plain, temperature: 0.7, topP: 0.8, topK: 5 })
    expect(refusal(() => samplingDefaults({ temperature: 'hot' })).message).toContain('temperature')
  })
})

describe('the end of a sequence', () => {
  it("comes with the model's own ids and the caller's", () => {
    expect(complete({ stop_token_ids: [9, 257] }).requests[0].stopIds).toEqual([257, 9])
    expect(complete({ ignore_eos: true }).requests[0].stopIds).toEqual([])
    expect(complete({ ignore_eos: true, stop_token_ids: [9] }).requests[0].stopIds).toEqual([9])
    expect(refusal(() => complete({ stop_token_ids: [258] }))).toMatchObject({ param: 'stop_token_ids' })
  })

  it('comes with stop strings, at most four', () => {
    expect(complete({ stop: 'a' }).stop).toEqual(['a'])
    expect(complete({ stop: ['a', 'b', 'c', 'd'] }).stop).toEqual(['a', 'b', 'c', 'd'])
    expect(complete({ stop: 'x'.repeat(1024) }).stop).toHaveLength(1)
    for (const stop of [['a', 'b', 'c', 'd', 'e'], '', [''], 5, [5], 'x'.repeat(1025)])
      expect(refusal(() => complete({ stop }))).toMatchObject({ param: expect.stringMatching(/^stop/) })
  })

  it('comes after min_tokens', () => {
    expect(complete({ min_tokens: 16 }).requests[0].minTokens).toBe(16)
    for (const min_tokens of [17, -1])
      expect(refusal(() => complete({ min_tokens }))).toMatchObject({ param: 'min_tokens' })
  })
})

describe('choices', () => {
  it('are numbered within their prompt, so that a prompt draws the same alone and among others', () => {
    const { requests } = complete({ prompt: ['a', 'b'], n: 2 })
    expect(requests.map(({ prompt, choice }) => [prompt[1], choice])).toEqual([
      [97, 0],
      [97, 1],
      [98, 0],
      [98, 1],
    ])
    expect(new Set(requests.map(({ id }) => id)).size).toBe(4)
  })

  it(`are at most ${choicesMax}`, () => {
    expect(complete({ n: choicesMax }).requests).toHaveLength(choicesMax)
    for (const body of [{ n: choicesMax + 1 }, { n: 0 }, { n: 65, prompt: ['a', 'b'] }])
      expect(refusal(() => complete(body))).toMatchObject({ code: Code.INVALID_ARGUMENT, param: 'n' })
    expect(refusal(() => complete({ prompt: new Array(choicesMax + 1).fill('a') }))).toMatchObject({ param: 'prompt' })
  })

  it('are not picked from more', () => {
    expect(complete({ n: 2, best_of: 2 }).requests).toHaveLength(2)
    expect(refusal(() => complete({ best_of: 2 }))).toMatchObject({ param: 'best_of' })
  })
})

describe('log-probabilities', () => {
  it('of a completion are a number of alternatives', () => {
    expect(complete({}).requests[0].logprobs).toBe(null)
    expect(complete({ logprobs: 0 }).requests[0]).toMatchObject({ logprobs: 0, promptLogprobs: false })
    expect(complete({ logprobs: 20, echo: true }).requests[0]).toMatchObject({ logprobs: 20, promptLogprobs: true })
    expect(complete({ echo: true })).toMatchObject({ echo: ['ab'], requests: [{ promptLogprobs: false }] })
    for (const logprobs of [21, -1, true])
      expect(refusal(() => complete({ logprobs }))).toMatchObject({ param: 'logprobs' })
  })

  it('of a chat are a switch and a number', () => {
    expect(chat({}).requests[0].logprobs).toBe(null)
    expect(chat({ logprobs: true }).requests[0].logprobs).toBe(0)
    expect(chat({ logprobs: true, top_logprobs: 3 }).requests[0].logprobs).toBe(3)
    expect(refusal(() => chat({ logprobs: 3 }))).toMatchObject({ param: 'logprobs' })
    expect(refusal(() => chat({ top_logprobs: 3 }))).toMatchObject({ param: 'top_logprobs' })
    expect(refusal(() => chat({ logprobs: true, top_logprobs: 21 }))).toMatchObject({ param: 'top_logprobs' })
  })
})

describe('the rest of a body', () => {
  it('is ignored when unknown, absent when null', () => {
    const body = { user: 'me', store: true, wild: 1, temperature: null, stop: null, n: null, stream_options: null }
    expect(complete(body).requests[0].sampling.temperature).toBe(0.7)
  })

  it('must name the served model, or none', () => {
    expect(complete({ model: 'alphabet' }).requests[0].model).toBe('alphabet')
    expect(complete({ model: null }).requests[0].model).toBe('alphabet')
    for (const accept of [complete, chat])
      expect(refusal(() => accept({ model: 'gpt-5' }))).toMatchObject({
        code: Code.NOT_FOUND,
        param: 'model',
        reason: 'model_not_found',
      })
    expect(refusal(() => complete({ model: 5 }))).toMatchObject({ code: Code.INVALID_ARGUMENT, param: 'model' })
  })

  it('must be an object', () => {
    for (const body of [undefined, null, 5, 'x', []])
      expect(refusal(() => acceptCompletion(plain, body, 'x')).message).toContain('JSON object')
  })

  it('says how to answer', () => {
    expect(complete({})).toMatchObject({ stream: false, includeUsage: false, returnTokenIds: false, echo: null })
    const asked = { stream: true, stream_options: { include_usage: true }, return_token_ids: true, logits_sha256: true }
    expect(complete(asked)).toMatchObject({ stream: true, includeUsage: true, returnTokenIds: true })
    expect(complete(asked).requests[0].digest).toBe(true)
    expect(refusal(() => complete({ stream_options: {} }))).toMatchObject({ param: 'stream_options' })
    expect(refusal(() => complete({ stream: 'yes' }))).toMatchObject({ param: 'stream' })
  })

  it('cannot ask for a suffix', () => {
    expect(complete({ suffix: '' }).requests).toHaveLength(1)
    expect(refusal(() => complete({ suffix: 'end' }))).toMatchObject({ param: 'suffix' })
  })
})
