import { describe, expect, it } from 'vitest'
import { constrain } from '../../../../services/gateway/forward/constrain.ts'
import { sample } from '../../../../services/gateway/forward/sample.ts'
import type { Encoder } from '../../../../shared/model/config.ts'
import { openModel } from '../../../../shared/model/open.ts'
import { goldenFolders } from '../../../support/goldens.ts'
import { greedy } from '../../../support/local.ts'
import { seeded } from '../../../support/random.ts'

const start = 0
const free: Encoder = { layers: 1, start, forcedFirst: null, forcedLast: null, suppressed: [], suppressedFirst: [] }
type Limits = Parameters<typeof constrain>[1]
const limits: Limits = { prompt: [start], stopIds: [2], minTokens: 0, maxTokens: 4, noRepeatNgram: 0 }
/** An output of so many ids, of which none matters. */
const outputOf = (generated: number): number[] => new Array(generated).fill(1)

/**
 * transformers' processors one after another, each over a whole list of scores and by the length of the decoder's ids, as
 * GenerationMixin lines them up; but SuppressTokens spares what was forced.
 */
const dumb = (scores: readonly number[], ids: readonly number[], encoder: Encoder, request: Limits): number[] => {
  const length = ids.length
  const maxLength = 1 + request.maxTokens
  const only = (id: number) => scores.map((_, at) => (at === id ? 0 : -Infinity))
  const without = (from: readonly number[], banned: readonly number[]) =>
    from.map((score, id) => (banned.includes(id) && score !== 0 ? -Infinity : score))
  const n = request.noRepeatNgram
  const grams = ids.slice(0, Math.max(0, length - n + 1)).map((_, at) => ids.slice(at, at + n))
  const repeats = scores
    .map((_, id) => id)
    .filter((id) => grams.some((gram) => `${gram}` === `${[...ids, id].slice(-n)}`))
  let result = n > 0 ? without(scores, repeats) : [...scores]
  if (length - 1 < request.minTokens) result = without(result, request.stopIds)
  if (length === 1 && encoder.forcedFirst !== null) result = only(encoder.forcedFirst)
  const { forcedLast } = encoder
  // Without its end among the stop ids a request is to go on behind ends.
  const goesOn = forcedLast?.ends && !request.stopIds.includes(forcedLast.id)
  if (length === maxLength - 1 && forcedLast && !goesOn) result = only(forcedLast.id)
  result = without(result, encoder.suppressed)
  const begin = encoder.forcedFirst === null ? 1 : 2
  return length === begin ? without(result, encoder.suppressedFirst) : result
}

const largest = (scores: readonly number[]): number => scores.indexOf(Math.max(...scores))

describe('constraints', () => {
  it('leave what transformers’ processors leave, whatever is forced and suppressed', () => {
    const forced = { first: 0, last: 0 }
    for (let seed = 0; seed < 2000; seed++) {
      const below = seeded(seed)
      const size = 12
      const id = () => below(size)
      const maybe = () => (below(2) ? id() : null)
      const some = (most: number) => Array.from({ length: below(most + 1) }, id)
      const encoder = {
        ...free,
        forcedFirst: maybe(),
        forcedLast: below(2) ? { id: id(), ends: below(2) === 1 } : null,
        suppressed: some(3),
        suppressedFirst: some(3),
      }
      const maxTokens = 1 + below(6)
      const ends = below(3) && encoder.forcedLast ? encoder.forcedLast.id : null
      const request = {
        maxTokens,
        prompt: [start],
        minTokens: below(maxTokens + 1),
        noRepeatNgram: below(4),
        stopIds: [...some(2), ...(ends === null ? [] : [ends])],
      }
      const output: number[] = []
      while (output.length < maxTokens) {
        // Zero is what the dumb version writes where it forces.
        const logits = Float32Array.from({ length: size }, () => 1 + below(1000) / 100)
        const expected = largest(dumb([...logits], [start, ...output], encoder, request))
        const constraint = constrain(encoder, request, output)
        const history = { prompt: [start], output }
        const { token } = sample(logits, history, greedy, 0, { logprobs: null, ...constraint })
        expect(token, `case ${seed}, token ${output.length}`).toBe(expected)
        if (constraint.forced !== null) forced[output.length === 0 ? 'first' : 'last']++
        output.push(token)
      }
    }
    expect(Math.min(forced.first, forced.last)).toBeGreaterThan(300)
  })

  it('of a decoder alone are its stop ids until min_tokens', () => {
    for (const generated of [0, 1, 2, 3])
      expect(constrain(null, { ...limits, minTokens: 2 }, outputOf(generated))).toEqual({
        forced: null,
        banned: generated < 2 ? [2] : [],
      })
  })

  it('ban what would repeat an n-gram of prompt and output, in a decoder alone too', () => {
    const banned = (prompt: number[], output: number[], noRepeatNgram: number) =>
      constrain(null, { ...limits, prompt, noRepeatNgram }, output).banned
    expect(banned([5], [6, 5], 2)).toEqual([6])
    expect(banned([5, 6], [7, 5, 6, 8, 5, 6], 3)).toEqual([7, 8])
    expect(banned([5], [6, 7], 1)).toEqual([5, 6, 7])
    expect(banned([5, 5], [], 2)).toEqual([5])
    expect(banned([5], [6], 3)).toEqual([])
    expect(banned([5], [5, 5, 5], 0)).toEqual([])
  })

  it('force the last id at max_tokens, but no end with ignore_eos, nor anything where nothing says so', () => {
    const ending = { ...free, forcedLast: { id: 2, ends: true } }
    const forcedAt = (encoder: Encoder, request: Limits) =>
      [0, 1, 2, 3].map((generated) => constrain(encoder, request, outputOf(generated)).forced)
    expect(forcedAt(ending, limits)).toEqual([null, null, null, 2])
    expect(forcedAt(ending, { ...limits, stopIds: [] })).toEqual([null, null, null, null])
    expect(forcedAt(free, limits)).toEqual([null, null, null, null])
    const padding = { ...free, forcedLast: { id: 9, ends: false } }
    for (const stopIds of [[], [2]]) expect(forcedAt(padding, { ...limits, stopIds })).toEqual([null, null, null, 9])
    expect(forcedAt({ ...ending, forcedFirst: 5 }, { ...limits, maxTokens: 1 })[0]).toBe(2)
  })

  it.each(['marian', 'bart', 't5', 'switch_transformers', 'nllb_moe'])(
    'let %s’s golden decode plainly with ignore_eos',
    async (name) => {
      for (const dir of goldenFolders([name])) {
        const { config, close } = await openModel(dir)
        await close()
        const request = { ...limits, stopIds: [], maxTokens: 24 }
        for (let generated = 0; generated < 24; generated++)
          expect(constrain(config.encoder, request, outputOf(generated))).toEqual({ forced: null, banned: [] })
      }
    },
  )

  it('keep from the beginning what may not begin, behind a forced beginning too', () => {
    const banned = (encoder: Encoder) =>
      [0, 1, 2].map((generated) => constrain(encoder, limits, outputOf(generated)).banned)
    expect(banned({ ...free, suppressedFirst: [7] })).toEqual([[7], [], []])
    expect(banned({ ...free, suppressedFirst: [7], forcedFirst: 5 })).toEqual([[], [7], []])
  })
})

describe('a forced token', () => {
  const logits = Float32Array.of(1, 3, 2, -Infinity)
  const history = { prompt: [start], output: [] }

  it('is drawn at any temperature, banned or impossible, and told with its own log-probability', () => {
    const banned = [0, 1, 2, 3]
    for (const temperature of [0, 1])
      for (const forced of [0, 3]) {
        const options = { logprobs: 1, forced, banned }
        const { token, logprob } = sample(logits, history, { ...greedy, temperature }, 0, options)
        expect(token).toBe(forced)
        expect(logprob).toMatchObject({ id: forced, top: [{ id: 1 }] })
        expect(logprob?.logprob).toBeCloseTo(
          forced === 3 ? -Infinity : 1 - Math.log(Math.E + Math.E ** 3 + Math.E ** 2),
        )
      }
  })

  it('does not hide logits that are none', () => {
    expect(() => sample(Float32Array.of(1, Number.NaN), history, greedy, 0, { logprobs: null, forced: 0 })).toThrow()
  })
})
