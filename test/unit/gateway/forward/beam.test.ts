import { describe, expect, it } from 'vitest'
import {
  advanceSearch,
  type BeamOptions,
  bestOutput,
  type Search,
  startSearch,
} from '../../../../services/gateway/forward/beam.ts'
import type { Constraint } from '../../../../services/gateway/forward/constrain.ts'
import { constrain } from '../../../../services/gateway/forward/constrain.ts'
import { argmax } from '../../../../services/gateway/forward/logprob.ts'
import { Code } from '../../../../shared/errors.ts'
import { seeded } from '../../../support/random.ts'

type Model = (output: readonly number[]) => Float32Array
type Limit = (output: readonly number[]) => Constraint

const anything: Limit = () => ({ forced: null, banned: [] })

/** Logits that depend on the seed and the whole output; `spread` is how far apart they lie. */
const modelOf = (seed: number, vocabulary: number, spread: number): Model => {
  return (output) => {
    const below = seeded(output.reduce((hash, id) => Math.imul(hash, 31) + id + 1, seed * 7919))
    return Float32Array.from({ length: vocabulary }, () => (below(1 << 20) / (1 << 20)) * spread)
  }
}

const searches = (model: Model, options: BeamOptions, limit = anything): Search[] => {
  const all = [startSearch()]
  while (!all.at(-1)!.done) {
    const search = all.at(-1)!
    const rows = search.live.map(({ output }) => model(output))
    all.push(advanceSearch(search, rows, limit, options))
  }
  return all
}

const logSoftmax = (logits: readonly number[]): number[] => {
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0)
  return logits.map((logit) => logit - Math.log(total))
}

const processed = (logits: Float32Array, { forced, banned }: Constraint): number[] =>
  logSoftmax([...logits]).map((value, id) => {
    if (forced !== null) return id === forced ? 0 : -Infinity
    return banned.includes(id) ? -Infinity : value
  })

/** The best of all outputs there are. */
const exhaustive = (model: Model, options: BeamOptions, limit: Limit): { output: number[]; score: number } => {
  let best = { output: [] as number[], score: -Infinity }
  const visit = (output: number[], sum: number): void => {
    if (output.length > 0 && (options.stopIds.includes(output.at(-1)!) || output.length === options.maxTokens)) {
      const score = sum / output.length ** options.lengthPenalty
      if (score > best.score) best = { output, score }
      return
    }
    for (const [id, more] of processed(model(output), limit(output)).entries())
      if (more > -Infinity) visit([...output, id], sum + more)
  }
  visit([], 0)
  return best
}

type Slot = { ids: number[]; score: number; sent: boolean }
const nothing = -1e9
const top = <T extends { score: number }>(slots: readonly T[], count: number): T[] =>
  [...slots].sort((a, b) => b.score - a.score).slice(0, count)

/** The tensors of transformers' _beam_search as lists: B slots throughout, those not in use at −1e9. Returns the steps as well. */
const asTransformers = (model: Model, options: BeamOptions, limit: Limit): { best: Slot; steps: number } => {
  const { beams, stopIds, maxTokens, lengthPenalty, earlyStopping } = options
  const keep = Math.max(2, 1 + stopIds.length) * beams
  let running: Slot[] = Array.from({ length: beams }, (_, at) => ({ ids: [], score: at ? nothing : 0, sent: false }))
  let finished: Slot[] = Array.from({ length: beams }, () => ({ ids: [], score: nothing, sent: false }))
  for (let length = 1; ; length++) {
    const all = running.flatMap(({ ids, score }) =>
      processed(model(ids), limit(ids)).map((more, id) => ({ ids: [...ids, id], score: score + more })),
    )
    const candidates = top(all, keep)
    const hits = candidates.map(({ ids }) => stopIds.includes(ids.at(-1)!) || length === maxTokens)
    running = top(
      candidates.map(({ ids, score }, at) => ({ ids, score: score + (hits[at] ? nothing : 0), sent: false })),
      beams,
    )
    const merged = candidates.map(({ ids, score }, at) => {
      const sent = hits[at] && at < beams
      return { ids, score: score / length ** lengthPenalty + (sent ? 0 : nothing), sent }
    })
    finished = top([...finished, ...merged], beams)
    const reach = earlyStopping === 'never' && lengthPenalty > 0 ? maxTokens : length
    const possible = running[0].score / reach ** lengthPenalty
    const least = Math.min(...finished.map(({ score }) => score))
    const improves = finished.some(({ sent }) => possible > (sent ? least : nothing))
    const full = finished.every(({ sent }) => sent) && earlyStopping === true
    if (!improves || full || hits.every((hit) => hit)) return { best: finished[0], steps: length }
  }
}

const randomOptions = (below: (limit: number) => number): BeamOptions => ({
  beams: 1 + below(4),
  lengthPenalty: [-1, 0, 0.6, 1, 2][below(5)],
  earlyStopping: ([true, false, 'never'] as const)[below(3)],
  maxTokens: 1 + below(8),
  stopIds: [[], [0], [0, 3]][below(3)],
})

describe('beam search', () => {
  it('finds what the tensors of transformers find, in as many steps', () => {
    const ends = { early: 0, late: 0, length: 0 }
    for (let seed = 0; seed < 2000; seed++) {
      const below = seeded(seed)
      const options = randomOptions(below)
      // Enough ids for every beam to go on, whatever is banned: where they run out, transformers fills up with copies.
      const [plain, eager] = [modelOf(seed, 14 + below(8), [1, 4, 12][below(3)]), below(4)]
      const model: Model = (output) => plain(output).map((logit, id) => (id === 0 ? logit + eager : logit))
      const encoder = {
        layers: 1,
        start: 0,
        forcedFirst: below(3) ? null : 5,
        forcedLast: below(3) ? null : { id: 0, ends: below(2) === 1 },
        suppressed: below(2) ? [1] : [],
        suppressedFirst: below(2) ? [2] : [],
      }
      const minTokens = below(2) ? below(options.maxTokens + 1) : 0
      const request = { ...options, prompt: [0], minTokens, noRepeatNgram: below(3) }
      const limit: Limit = (output) => constrain(encoder, request, output)
      const expected = asTransformers(model, options, limit)
      const all = searches(model, options, limit)
      const found = bestOutput(all.at(-1)!)
      expect(found.output, `case ${seed}`).toEqual(expected.best.ids)
      expect(found.score).toBeCloseTo(expected.best.score, 9)
      expect(all.length - 1, `case ${seed}`).toBe(expected.steps)
      const { length } = found.output
      const stops = options.stopIds.includes(found.output[length - 1])
      const forced = length === options.maxTokens && limit(found.output.slice(0, -1)).forced !== null
      expect(found.finish, `case ${seed}`).toBe(stops && !forced ? 'stop' : 'length')
      ends[found.finish === 'length' ? 'length' : expected.steps < options.maxTokens ? 'early' : 'late']++
    }
    expect(Math.min(...Object.values(ends))).toBeGreaterThan(200)
  })

  it('finds the best of all outputs where every one of them has a beam', () => {
    for (let seed = 0; seed < 300; seed++) {
      const below = seeded(seed)
      const vocabulary = 2 + below(3)
      const stopIds = [[], [0], [0, 1]][below(vocabulary > 2 ? 3 : 2)]
      const options = { ...randomOptions(below), stopIds, maxTokens: 1 + below(4), beams: 300 }
      const model = modelOf(seed, vocabulary, [1, 4][below(2)])
      const banned = below(2) ? [vocabulary - 1] : []
      const limit: Limit = ({ length }) => ({ forced: null, banned: length === 1 ? banned : [] })
      const expected = exhaustive(model, options, limit)
      const found = bestOutput(searches(model, options, limit).at(-1)!)
      expect(found.score).toBeCloseTo(expected.score, 9)
      expect(found.output, `case ${seed}`).toEqual(expected.output)
    }
  })

  it('with one beam is greedy decoding, equal logits included', () => {
    for (let seed = 0; seed < 300; seed++) {
      const below = seeded(seed)
      const options = { ...randomOptions(below), beams: 1, earlyStopping: below(2) === 0, maxTokens: 1 + below(30) }
      const exact = modelOf(seed, 10, 1)
      const model: Model = (output) => exact(output).map((logit) => (seed % 2 ? Math.round(logit * 3) : logit * 1e-20))
      const greedy: number[] = []
      do greedy.push(argmax(model(greedy)))
      while (greedy.length < options.maxTokens && !options.stopIds.includes(greedy.at(-1)!))
      expect(bestOutput(searches(model, options).at(-1)!).output, `case ${seed}`).toEqual(greedy)
    }
  })

  it('says where every beam comes from', () => {
    for (let seed = 0; seed < 50; seed++) {
      const below = seeded(seed)
      const options = { ...randomOptions(below), beams: 3 }
      const all = searches(modelOf(seed, 12, 2), options)
      for (const [step, { live, finished }] of all.entries()) {
        for (const { output, places } of [...live, ...finished]) {
          expect(places.length).toBe(output.length)
          for (let at = 0; at < Math.min(step, output.length); at++)
            expect(all[at].live[places[at]].output).toEqual(output.slice(0, at))
        }
      }
    }
  })

  it('gives equal sums to the lowest place, then to the lowest id', () => {
    const flat = () => new Float32Array(4)
    const options: BeamOptions = { beams: 2, lengthPenalty: 1, earlyStopping: false, maxTokens: 3, stopIds: [] }
    const [, one, two, three] = searches(flat, options)
    expect(one.live.map(({ output }) => output)).toEqual([[0], [1]])
    expect(two.live.map(({ output }) => output)).toEqual([
      [0, 0],
      [0, 1],
    ])
    expect(bestOutput(three)).toMatchObject({ output: [0, 0, 0], places: [0, 0, 0], finish: 'length' })
  })

  it('counts the token that ends an output in its length, and forced tokens as certain', () => {
    const flat = () => new Float32Array(4)
    const options: BeamOptions = { beams: 1, lengthPenalty: 2, earlyStopping: true, maxTokens: 3, stopIds: [3] }
    const forced = [2, null, 3]
    const found = bestOutput(searches(flat, options, ({ length }) => ({ forced: forced[length], banned: [] })).at(-1)!)
    expect(found).toMatchObject({ output: [2, 0, 3], finish: 'length' })
    expect(found.score).toBeCloseTo(Math.log(1 / 4) / 9, 12)
  })

  it('keeps a stop out of the answers that is not among the best B, and goes on without it', () => {
    const options: BeamOptions = { beams: 1, lengthPenalty: 0, earlyStopping: true, maxTokens: 9, stopIds: [1] }
    const search = advanceSearch(startSearch(), [Float32Array.of(2, 1, 0)], () => anything([]), options)
    expect(search).toMatchObject({ live: [{ output: [0] }], finished: [], done: false })
  })

  it('drops what has no probability, and ends when nothing is left to go on with', () => {
    const options: BeamOptions = { beams: 3, lengthPenalty: 1, earlyStopping: false, maxTokens: 9, stopIds: [1] }
    const start = advanceSearch(startSearch(), [Float32Array.of(0, -Infinity, 1)], () => anything([]), options)
    expect(start.live.map(({ output }) => output)).toEqual([[2], [0]])
    const end = advanceSearch(
      start,
      [0, 1].map(() => Float32Array.of(-Infinity, 5, -Infinity)),
      () => anything([0]),
      options,
    )
    expect(end).toMatchObject({ live: [], done: true, finished: [{ output: [2, 1] }, { output: [0, 1] }] })
  })

  it('refuses logits that mean nothing, and a position at which nothing may come', () => {
    const options: BeamOptions = { beams: 2, lengthPenalty: 1, earlyStopping: false, maxTokens: 9, stopIds: [] }
    const inner = expect.objectContaining({ code: Code.INTERNAL })
    const advance = (allowed: Constraint, ...logits: number[]) =>
      advanceSearch(startSearch(), [Float32Array.from(logits)], () => allowed, options)
    expect(() => advance(anything([]), 1, Number.NaN)).toThrow(inner)
    expect(() => advance({ forced: 0, banned: [] }, 1, Infinity)).toThrow(inner)
    expect(() => advance({ forced: null, banned: [0, 1] }, 1, 1)).toThrow(inner)
    expect(() => advance(anything([]), -Infinity, -Infinity)).toThrow(inner)
  })

  it('leaves its arguments as they are and survives a copy', () => {
    const options: BeamOptions = { beams: 2, lengthPenalty: 1, earlyStopping: false, maxTokens: 9, stopIds: [2] }
    const row = Float32Array.of(3, 2, 1)
    const allowed = () => ({ forced: null, banned: [0] })
    const start = startSearch()
    const once = advanceSearch(start, [row], allowed, options)
    expect([...row]).toEqual([3, 2, 1])
    expect(start).toEqual(startSearch())
    expect(advanceSearch(structuredClone(start), [row], allowed, options)).toEqual(once)
  })
})
