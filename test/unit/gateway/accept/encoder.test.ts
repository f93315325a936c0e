import { beforeAll, describe, expect, it } from 'vitest'
import { packKept, unpackKept } from '../../../../services/gateway/accept/kept.ts'
import { modelBody } from '../../../../services/gateway/accept/openai.ts'
import { promptIds } from '../../../../services/gateway/accept/prompt.ts'
import { acceptChat, acceptCompletion } from '../../../../services/gateway/accept/request.ts'
import type { Served } from '../../../../services/gateway/accept/served.ts'
import { tokenize } from '../../../../services/gateway/accept/text.ts'
import { Code } from '../../../../shared/errors.ts'
import { bos, eos, readAlphabet } from '../../../support/alphabet.ts'
import { refusal } from '../../../support/refusal.ts'

const start = 7
const encoder = {
  layers: 1,
  start,
  forcedFirst: null,
  forcedLast: { id: eos, ends: true },
  suppressed: [],
  suppressedFirst: [],
}

let plain: Served
let translator: Served
beforeAll(async () => {
  plain = await readAlphabet()
  // What a T5 tokenizer does: nothing before a source, eos behind it.
  const tokenizer = plain.tokenizer && {
    ...plain.tokenizer,
    encode: (text: string, { addSpecialTokens }: { addSpecialTokens: boolean }) =>
      addSpecialTokens ? [...Buffer.from(text), eos] : [...Buffer.from(text)],
  }
  translator = { ...plain, tokenizer, config: { ...plain.config, encoder } }
})

const accept = (body: object, served = translator) => acceptCompletion(served, { prompt: 'ab', ...body }, 'x')
const inputs = (body: object, served = translator) =>
  accept(body, served).requests.map(({ source, prompt }) => ({ source, prompt }))

describe('the prompt of an encoder–decoder', () => {
  it('is what the encoder reads, while the decoder begins with its start id', () => {
    expect(inputs({})).toEqual([{ source: [97, 98, eos], prompt: [start] }])
    expect(inputs({ add_special_tokens: false })).toEqual([{ source: [97, 98], prompt: [start] }])
    expect(inputs({ prompt: ['a', 'b'] }).map(({ source }) => source)).toEqual([
      [97, eos],
      [98, eos],
    ])
  })

  it('as ids is taken as it is', () => {
    expect(inputs({ prompt: [5, 6] })).toEqual([{ source: [5, 6], prompt: [start] }])
  })

  it('of a decoder alone is no source', () => {
    expect(inputs({}, plain)).toEqual([{ source: [], prompt: [bos, 97, 98] }])
  })

  it('is what a client is told of, not the start id', () => {
    expect(promptIds(accept({ prompt: [5, 6] }).requests[0])).toEqual([5, 6])
    expect(promptIds(accept({ prompt: [5, 6] }, plain).requests[0])).toEqual([5, 6])
  })

  it('is kept with the request, for whichever gateway runs it', () => {
    const kept = { work: accept({ prompt: [5, 6] }), created: 1, deadlineAt: null, tenant: '' }
    expect(unpackKept(packKept(kept)).work.requests[0]).toMatchObject({ source: [5, 6], prompt: [start] })
  })
})

it('is told from a decoder alone', () => {
  expect(modelBody(translator)).toMatchObject({ object: 'model', kind: 'encoder-decoder', max_model_len: 64 })
  expect(modelBody(plain)).toMatchObject({ kind: 'decoder' })
})

describe('the limits of an encoder–decoder', () => {
  it('are its context for the source, and its context for the output', () => {
    const [request] = accept({ prompt: new Array(64).fill(1), max_tokens: 63 }).requests
    expect(request.source.length).toBe(64)
    expect(request.maxTokens).toBe(63)
    expect(acceptCompletion(translator, { prompt: [1] }, 'x', null).requests[0].maxTokens).toBe(63)
  })

  it.each([
    [{ prompt: new Array(65).fill(1) }, 'prompt', "The prompt has 65 tokens and this model's encoder reads at most 64"],
    [{ prompt: 'a'.repeat(64) }, 'prompt', 'The prompt has 65 tokens'],
    [{ prompt: 'a'.repeat(64 * 256 + 1) }, 'prompt', '16385 characters'],
    [{ max_tokens: 64 }, 'max_tokens', "This model's output has at most 63 tokens, and max_tokens is 64."],
    [{ max_completion_tokens: 64 }, 'max_completion_tokens', 'at most 63 tokens'],
  ])('%j is too long', (body, param, words) => {
    const error = refusal(() => accept(body))
    expect(error).toMatchObject({ code: Code.INVALID_ARGUMENT, param, reason: 'context_length_exceeded' })
    expect(error.message).toContain(words)
  })

  it.each([
    [{ prompt: '', add_special_tokens: false }, 'prompt', 'The prompt is empty'],
    [{ prompt: [[]] }, 'prompt.0', 'The prompt is empty'],
    [{ prompt: [258] }, 'prompt', 'ids run from 0 to 257'],
    [{ echo: true }, 'echo', 'echo is not supported'],
    [{ echo: true, logprobs: 0 }, 'echo', 'no log-probabilities'],
    [{ min_tokens: 17 }, 'min_tokens', 'more than the 16 tokens'],
  ])('%j is refused', (body, param, words) => {
    const error = refusal(() => accept(body))
    expect(error).toMatchObject({ code: Code.INVALID_ARGUMENT, param })
    expect(error.message).toContain(words)
  })

  it('take no chats, whatever else is wrong with them', () => {
    const messages = [{ role: 'user', content: 'hi' }]
    const chat = { takesTools: false, render: () => 'hi' }
    const talking = { ...translator, chat }
    const words = 'This model is an encoder–decoder and takes no chats: use /v1/completions'
    const tools = [{ type: 'function' }]
    for (const served of [translator, talking])
      for (const body of [{ messages }, { messages, tools }]) {
        const error = refusal(() => acceptChat(served, body, 'x'))
        expect(error).toMatchObject({ code: Code.INVALID_ARGUMENT, param: 'messages' })
        expect(error.message).toContain(words)
      }
    expect(refusal(() => tokenize(talking, { messages })).message).toContain(words)
    expect(tokenize(translator, { prompt: 'a' }).tokens).toEqual([97, eos])
  })
})
