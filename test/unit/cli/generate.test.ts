import { describe, expect, test } from 'vitest'
import { rates } from '../../../services/cli/client.ts'
import { parseIds, report, toRequest } from '../../../services/cli/generate.ts'

describe('what generate asks for', () => {
  const least = { model: 'm', workers: 0, maxTokens: 5 }

  test('ids are read as they are', () => {
    expect(parseIds('1, 2,4294967295')).toEqual([1, 2, 4294967295])
  })

  test.each(['', '1,', '1,-2', '1.5', 'a', '4294967296'])('%j is no list of ids', (text) => {
    expect(() => parseIds(text)).toThrow('token ids')
  })

  test('a prompt or ids, but not both and not none', () => {
    expect(toRequest({ ...least, prompt: '' }).prompt).toBe('')
    expect(toRequest({ ...least, ids: [7] }).prompt_ids).toEqual({ ids: [7] })
    expect(() => toRequest(least)).toThrow('either --prompt')
    expect(() => toRequest({ ...least, prompt: 'a', ids: [1] })).toThrow('either --prompt')
  })

  test('greedy is asked for, not taken for absent, and what is absent stays the model’s own', () => {
    const request = toRequest({ ...least, prompt: 'a', temperature: 0 })
    expect(request.temperature).toBe(0)
    expect(Object.keys(request)).not.toContain('top_p')
  })

  test('digests are computed for --json alone', () => {
    expect(toRequest({ ...least, prompt: 'a', json: true }).logits_sha256).toBe(true)
    expect(toRequest({ ...least, prompt: 'a' }).logits_sha256).toBe(false)
  })
})

describe('what generate reports', () => {
  test('rates divide the prompt by the time to the first token, and the rest by the time after it', () => {
    expect(rates(100, { firstMs: 50, lastMs: 250, afterFirst: 10 })).toEqual({
      prefill_tokens_per_second: 2000,
      decode_tokens_per_second: 50,
    })
  })

  test('one token has no decode rate', () => {
    expect(rates(3, { firstMs: 10, lastMs: 10, afterFirst: 0 }).decode_tokens_per_second).toBeNull()
  })

  test('text is null where there is no tokenizer', () => {
    const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2, cached_tokens: 0 }
    const timing = { prefill_tokens_per_second: 1, decode_tokens_per_second: null }
    const completion = { ids: [1], text: '', finishReason: 'length', logitsSha256: 'ab', usage, timing }
    expect(report(completion, false).text).toBeNull()
    expect(report(completion, true).text).toBe('')
  })
})
