import { describe, expect, it } from 'vitest'
import { uniform } from '../../../../services/gateway/forward/philox.ts'
import { type History, sample } from '../../../../services/gateway/forward/sample.ts'
import type { Sampling } from '../../../../services/gateway/sequence.ts'
import { Code } from '../../../../shared/errors.ts'
import { seeded } from '../../../support/random.ts'

const neutral: Sampling = {
  temperature: 1,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 1n,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: new Map(),
}
const nothing: History = { prompt: [], output: [] }
const none = { logprobs: null }

/** The same definitions over plain sorted lists. */
const dumb = (
  logits: Float32Array,
  history: History,
  s: Sampling,
  choice: number,
  banned: readonly number[],
): number => {
  const all = [...history.prompt, ...history.output]
  const tokens = [...logits].map((logit, id) => {
    let value = logit
    if (all.includes(id)) value = value > 0 ? value / s.repetitionPenalty : value * s.repetitionPenalty
    const count = history.output.filter((other) => other === id).length
    if (count > 0) value -= count * s.frequencyPenalty + s.presencePenalty
    value += s.logitBias.get(id) ?? 0
    if (banned.includes(id)) value = -Infinity
    return { id, value, weight: 0 }
  })
  const sorted = tokens.sort((a, b) => b.value - a.value || a.id - b.id)
  if (s.temperature === 0) return sorted[0].id
  let kept = s.topK > 0 ? sorted.slice(0, s.topK) : sorted
  for (const token of kept) token.weight = Math.exp((token.value - sorted[0].value) / s.temperature)
  const byId = () => [...kept].sort((a, b) => a.id - b.id)
  if (s.topP < 1) {
    const total = byId().reduce((sum, { weight }) => sum + weight, 0)
    let before = 0
    kept = kept.filter(({ weight }, at) => {
      const stays = at === 0 || before < s.topP * total
      before += weight
      return stays
    })
  }
  kept = kept.filter(({ weight }) => weight >= s.minP)
  const target = uniform(s.seed, choice, all.length) * byId().reduce((sum, { weight }) => sum + weight, 0)
  let sum = 0
  for (const { id, weight } of byId()) {
    sum += weight
    if (sum > target) return id
  }
  return byId().at(-1)!.id
}

describe('sample', () => {
  it('draws what a full sort would, whatever the parameters, ties included', () => {
    const drawn = new Set<number>()
    for (let seed = 0; seed < 3000; seed++) {
      const below = seeded(seed)
      const next = () => below(2 ** 32) / 2 ** 32
      const size = 1 + below(40)
      // Half of the cases have few distinct logits, so that cuts fall among equals; some have −∞.
      const step = seed % 2 ? 0.5 : 1e-3
      const logits = Float32Array.from({ length: size }, () =>
        below(20) === 0 ? -Infinity : Math.round((next() * 8 - 4) / step) * step,
      )
      logits[below(size)] = 1
      const ids = (count: number) => Array.from({ length: count }, () => below(size))
      const history = { prompt: ids(below(6)), output: ids(below(6)) }
      const sampling = {
        temperature: [0, 0.1, 0.7, 1, 3][below(5)],
        topK: below(2) ? below(size + 3) : 0,
        topP: below(2) ? next() : [0, 1, 1, 0.5][below(4)],
        minP: below(3) ? 0 : next(),
        seed: BigInt(seed),
        repetitionPenalty: below(2) ? 1 : 0.5 + next(),
        presencePenalty: below(2) ? 0 : next() * 4 - 2,
        frequencyPenalty: below(2) ? 0 : next() * 4 - 2,
        logitBias: new Map(below(2) ? [] : [[below(size), next() * 10 - 5]]),
      }
      const banned = size > 8 && below(3) === 0 ? [below(4)] : []
      const before = logits.slice()
      const { token } = sample(logits, history, sampling, seed % 3, { logprobs: null, banned })
      expect(token, `case ${seed}`).toBe(dumb(logits, history, sampling, seed % 3, banned))
      expect(logits).toEqual(before)
      drawn.add(token)
    }
    expect(drawn.size).toBeGreaterThan(30)
  })

  it('draws tokens as often as their probabilities say', () => {
    const logits = Float32Array.of(0, 1, 2, -1, -Infinity, 1.5)
    const draws = 20_000
    for (const temperature of [0.5, 1, 2]) {
      const weights = [...logits].map((logit) => Math.exp(logit / temperature))
      const total = weights.reduce((a, b) => a + b)
      const counts = weights.map(() => 0)
      for (let seed = 0n; seed < draws; seed++) {
        counts[sample(logits, nothing, { ...neutral, temperature, seed }, 0, none).token]++
      }
      for (const [id, count] of counts.entries()) {
        const p = weights[id] / total
        // Four standard deviations of a binomial.
        expect(Math.abs(count - draws * p)).toBeLessThanOrEqual(4 * Math.sqrt(draws * p * (1 - p)))
      }
    }
  })

  it('draws anew for another seed, choice or position, and the same again for the same', () => {
    const logits = new Float32Array(1000)
    const draw = (seed: bigint, choice: number, position: number) =>
      sample(logits, { prompt: new Array(position).fill(0), output: [] }, { ...neutral, seed }, choice, none).token
    const at = Array.from({ length: 50 }, (_, i) => i)
    const series = [
      at.map((i) => draw(5n, 0, i)),
      at.map((i) => draw(5n, 1, i)),
      at.map((i) => draw(6n, 0, i)),
      at.map((i) => draw(5n + (1n << 32n), 0, i)),
      at.map((i) => draw(BigInt(i), 0, 0)),
      at.map((i) => draw(5n, i, 0)),
    ]
    for (const [one, tokens] of series.entries()) {
      expect(new Set(tokens).size).toBeGreaterThan(40)
      for (const other of series.slice(one + 1)) {
        expect(tokens.filter((token, i) => token === other[i]).length).toBeLessThan(4)
      }
    }
    expect(at.map((i) => draw(5n, 0, i))).toEqual(series[0])
  })

  it('counts positions over prompt and output, so that a resumed request draws on', () => {
    const logits = new Float32Array(1000)
    const whole = sample(logits, { prompt: [1, 2], output: [3, 4] }, neutral, 0, none)
    expect(sample(logits, { prompt: [1, 2, 3, 4], output: [] }, neutral, 0, none)).toEqual(whole)
  })

  it('is greedy at temperature 0, the lowest id of equals, −0 and 0 being equal', () => {
    const greedy = { ...neutral, temperature: 0 }
    expect(sample(Float32Array.of(-Infinity, 2, 3, 3), nothing, greedy, 0, none).token).toBe(2)
    expect(sample(Float32Array.of(-1, -0, 0), nothing, greedy, 0, none).token).toBe(1)
    expect(sample(Float32Array.of(-0, 0), nothing, { ...neutral, topK: 1 }, 0, none).token).toBe(0)
  })

  it('never draws a banned token, nor one beyond a cut', () => {
    const logits = Float32Array.of(9, 1, 1, 1)
    for (let seed = 0n; seed < 200n; seed++) {
      const cut = { ...neutral, seed, topK: 2 }
      expect(sample(logits, nothing, cut, 0, { logprobs: null, banned: [0] }).token).toBeOneOf([1, 2])
      expect(sample(logits, nothing, { ...neutral, seed, minP: 0.01 }, 0, none).token).toBe(0)
      expect(sample(logits, nothing, { ...neutral, seed, topP: 0 }, 0, none).token).toBe(0)
    }
  })

  it('is finite at extreme temperatures and logits', () => {
    const logits = Float32Array.of(3e38, -3e38, 2.9e38)
    expect(sample(logits, nothing, { ...neutral, temperature: 1e-300 }, 0, none).token).toBe(0)
    expect(sample(logits, nothing, { ...neutral, temperature: 1e300 }, 0, none).token).toBeOneOf([0, 1, 2])
  })

  it('refuses logits that mean nothing', () => {
    const inner = expect.objectContaining({ code: Code.INTERNAL })
    const draw = (...logits: number[]) => sample(Float32Array.from(logits), nothing, neutral, 0, none)
    expect(() => draw(1, Number.NaN)).toThrow(inner)
    expect(() => draw(Number.NaN, 1)).toThrow(inner)
    expect(() => draw(1, Infinity)).toThrow(inner)
    expect(() => draw(-Infinity, -Infinity)).toThrow(inner)
    expect(() => sample(Float32Array.of(1), nothing, neutral, 0, { logprobs: null, banned: [0] })).toThrow(inner)
  })

  it('refuses a bias on a token that does not exist', () => {
    const biased = { ...neutral, logitBias: new Map([[2, 1]]) }
    expect(() => sample(Float32Array.of(1, 2), nothing, biased, 0, none)).toThrow(
      expect.objectContaining({ code: Code.INVALID_ARGUMENT, param: 'logit_bias' }),
    )
  })

  it('copes with a large flat vocabulary', () => {
    const logits = Float32Array.from({ length: 100_000 }, (_, id) => Math.fround(Math.sin(id)))
    const sampling = { ...neutral, topK: 50_000, topP: 0.9, temperature: 2, seed: 3n }
    const expected = dumb(logits, nothing, sampling, 0, [])
    expect(sample(logits, nothing, sampling, 0, none).token).toBe(expected)
  })
})

describe("sample's log-probabilities", () => {
  it("are of the model's own logits, whatever is done to draw", () => {
    const logits = Float32Array.of(0, Math.log(3), -Infinity, Math.log(4))
    const sampling = { ...neutral, temperature: 0, logitBias: new Map([[0, 100]]), repetitionPenalty: 2 }
    const { token, logprob } = sample(logits, { prompt: [1], output: [3] }, sampling, 0, { logprobs: 2 })
    expect(token).toBe(0)
    expect(logprob?.id).toBe(0)
    expect(logprob?.logprob).toBeCloseTo(Math.log(1 / 8), 6)
    expect(logprob?.top.map(({ id }) => id)).toEqual([3, 1])
    expect(logprob?.top[0].logprob).toBeCloseTo(Math.log(4 / 8), 6)
  })

  it('list equal tokens in id order, and no more than there are', () => {
    const logits = Float32Array.of(1, 2, 2, 1, 2, -Infinity)
    const top = (count: number) =>
      sample(logits, nothing, neutral, 0, { logprobs: count }).logprob?.top.map(({ id }) => id)
    expect(top(0)).toEqual([])
    expect(top(2)).toEqual([1, 2])
    expect(top(4)).toEqual([1, 2, 4, 0])
    expect(top(9)).toEqual([1, 2, 4, 0, 3, 5])
  })

  it('are null where none are asked for', () => {
    expect(sample(Float32Array.of(1), nothing, neutral, 0, none).logprob).toBeNull()
  })
})
