import { expect, it } from 'vitest'
import { packEvent, packRequest, unpackEvent, unpackRequest } from '../../../../services/gateway/journal/record.ts'
import type { EngineEvent, GenerationRequest } from '../../../../services/gateway/sequence.ts'
import { greedy, requestOf } from '../../../support/local.ts'
import { seeded } from '../../../support/random.ts'

it('requests survive a store as they are', () => {
  const seed = 2n ** 64n - 1n
  const sampling = { ...greedy, seed, temperature: 0.1 + 0.2, logitBias: new Map([[7, -100]]) }
  const more = { source: [8, 9], resume: [4, 5], stopIds: [6], logprobs: 0, noRepeatNgram: 3 }
  const request = requestOf([1, 2, 3], 9, { sampling, ...more })
  const stored = JSON.parse(JSON.stringify(packRequest(request)))
  expect(unpackRequest(stored)).toEqual<GenerationRequest>(request)
})

it('a request stored before there were sources, beams and bans of n-grams has none', () => {
  const request = requestOf([1, 2, 3], 9)
  const { source, search, noRepeatNgram, ...older } = packRequest(request)
  expect({ source, search, noRepeatNgram }).toEqual({ source: [], search: null, noRepeatNgram: 0 })
  expect(unpackRequest(older)).toEqual(request)
})

it('events survive a store to the last bit', () => {
  const next = seeded(11)
  const value = (): number => (next(10) === 0 ? Number.NEGATIVE_INFINITY : -Math.exp(next(1e6) / 1e5))
  const logprob = () => ({ id: next(1e5), logprob: value(), top: [{ id: next(1e5), logprob: value() }] })
  for (let round = 0; round < 200; round++) {
    const digest = Uint8Array.from({ length: 32 }, () => next(256))
    const token: EngineEvent = {
      kind: 'token',
      id: 'r',
      index: round,
      token: next(1e5),
      logprob: next(2) ? logprob() : null,
      digest: next(2) ? digest : null,
      finish: next(2) ? 'stop' : null,
    }
    const prompt: EngineEvent = { kind: 'prompt', id: 'r', begin: next(9), logprobs: [null, logprob()] }
    const failed: EngineEvent = { kind: 'failed', id: 'r', code: 13, message: 'what: "it" was' }
    const started: EngineEvent = { kind: 'started', id: 'r', cachedTokens: next(1e4) }
    for (const event of [token, prompt, failed, started])
      expect(unpackEvent(packEvent(event), 'r', round)).toEqual(event)
  }
})
