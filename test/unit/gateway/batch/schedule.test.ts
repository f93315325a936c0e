import assert from 'node:assert/strict'
import { describe, expect, it } from 'vitest'
import {
  advance,
  type Limits,
  type Plan,
  type Span,
  schedule,
  seatsOf,
} from '../../../../services/gateway/batch/schedule.ts'
import type { Beam, BeamSettings, GenerationRequest, Sequence } from '../../../../services/gateway/sequence.ts'
import { seeded } from '../../../support/random.ts'

const blockRows = 128
const blocksFor = (tokens: number): number => Math.ceil(tokens / blockRows)
const limits: Limits = { chunk: 64, maxSequences: 8, maxBatchTokens: 100 }

const ascending = (length: number): number[] => Array.from({ length }, (_, i) => i)

/** A sequence, or a search with so many beams of which `live` go on. */
const sequence = (id: string, tokens: number, cached = 0, source = 0, beams = 1, live = 1): Sequence => ({
  request: {
    id,
    source: ascending(source) as readonly number[],
    search: beams > 1 ? ({ beams } as BeamSettings) : null,
  } as GenerationRequest,
  beams: ascending(live).map((at) => ({ id: `${id}${at}`, ids: ascending(tokens), cached })),
  search: null,
  status: 'waiting',
  arrival: 0,
})
const search = (id: string, tokens: number, beams: number, live: number): Sequence =>
  sequence(id, tokens, tokens - 1, 0, beams, live)

/** A cache that holds what the running sequences need so far. */
const counts = (running: readonly Sequence[], totalBlocks: number) => {
  const held = ({ beams }: Sequence): number => beams.reduce((sum, { cached }) => sum + blocksFor(cached), 0)
  return { freeBlocks: totalBlocks - running.reduce((sum, one) => sum + held(one), 0), held, blocksFor }
}

const plan = (running: Sequence[], waiting: Sequence[], totalBlocks = 100, changed: Partial<Limits> = {}): Plan =>
  schedule({ waiting, running, limits: { ...limits, ...changed }, cache: counts(running, totalBlocks) })

const names = (sequences: readonly Sequence[]): string => sequences.map(({ request }) => request.id).join(' ')
const spans = (rows: readonly Span[]): string =>
  rows.map(({ sequence, begin, end }) => `${sequence.request.id}[${begin},${end})`).join(' ')

describe('schedule', () => {
  it('plans nothing when there is nothing to run', () => {
    expect(plan([], [])).toEqual({ fail: [], preempt: [], admit: [], rows: [] })
  })

  it('runs decode rows first, then chunks of prompts in order of arrival', () => {
    const running = [sequence('a', 200, 64), sequence('b', 10, 9), sequence('c', 300), sequence('d', 50, 49)]
    expect(spans(plan(running, []).rows)).toBe('b[9,10) d[49,50) a[64,128) c[0,34)')
  })

  it('runs every decode row even where they exceed the batch', () => {
    const running = ['a', 'b', 'c'].map((id) => sequence(id, 10, 9))
    expect(spans(plan(running, [sequence('d', 5)], 100, { maxBatchTokens: 2 }).rows)).toBe('a[9,10) b[9,10) c[9,10)')
  })

  it('admits in order of arrival while seats, tokens and blocks last', () => {
    const waiting = ['a', 'b', 'c'].map((id) => sequence(id, 40))
    expect(names(plan([], waiting).admit)).toBe('a b c')
    expect(spans(plan([], waiting).rows)).toBe('a[0,40) b[0,40) c[0,20)')
    expect(names(plan([], waiting, 100, { maxSequences: 1 }).admit)).toBe('a')
    expect(names(plan([], waiting, 100, { maxBatchTokens: 40 }).admit)).toBe('a')
    expect(names(plan([], waiting, 2).admit)).toBe('a b')
  })

  it('never has more sequences than tokens of a batch, so that a prompt always finds room beside decode rows', () => {
    const running = [sequence('a', 10, 9), sequence('b', 10, 9)]
    expect(names(plan(running, [sequence('c', 9)], 100, { maxBatchTokens: 3 }).admit)).toBe('c')
    expect(names(plan(running, [sequence('c', 9)], 100, { maxBatchTokens: 2 }).admit)).toBe('')
  })

  it('does not let a short prompt overtake one that waits for blocks', () => {
    const running = [sequence('a', 256, 255)]
    const decided = plan(running, [sequence('long', 300), sequence('short', 5)], 4)
    expect(names(decided.admit)).toBe('')
    expect(spans(decided.rows)).toBe('a[255,256)')
  })

  it('counts the blocks of a prompt in full from its first chunk on', () => {
    const running = [sequence('a', 500, 64)]
    expect(names(plan(running, [sequence('b', 200)], 5).admit)).toBe('')
    expect(names(plan(running, [sequence('b', 200)], 6).admit)).toBe('b')
  })

  it('preempts the latest arrival when a decode row needs a block that is not free, and admits nobody then', () => {
    const running = [sequence('a', 129, 128), sequence('b', 200, 199), sequence('c', 128, 127)]
    const decided = plan(running, [sequence('d', 1)], 4)
    expect(names(decided.preempt)).toBe('c')
    expect(spans(decided.rows)).toBe('a[128,129) b[199,200)')
    expect(decided.admit).toEqual([])
  })

  it('names the preempted latest first', () => {
    const running = [sequence('a', 385, 300), sequence('b', 100, 99), sequence('c', 100, 99)]
    expect(names(plan(running, [], 5).preempt)).toBe('c')
    expect(names(plan(running, [], 4).preempt)).toBe('c b')
  })

  it('fails what the whole cache cannot hold, and goes on with the others', () => {
    const decided = plan([sequence('a', 257, 256)], [sequence('b', 600), sequence('c', 10)], 2)
    expect(names(decided.fail)).toBe('a b')
    expect(names(decided.admit)).toBe('c')
    expect(spans(decided.rows)).toBe('c[0,10)')
  })
})

describe('advance', () => {
  it('moves a row up to the tokens found in the cache', () => {
    const opened = sequence('a', 200)
    const [beam] = opened.beams
    const row = { sequence: opened, beam, begin: 0, end: 64 }
    expect(spans([advance(row)])).toBe('a[0,64)')
    beam.cached = 100
    expect(spans([advance(row)])).toBe('a[100,164)')
    beam.cached = 199
    expect(spans([advance(row)])).toBe('a[199,200)')
  })
})

const written = ({ fail, preempt, admit, rows }: Plan): string =>
  [names(fail), names(preempt), names(admit), spans(rows)].join('|')

const lengthOf = ({ beams }: Sequence): number => beams[0].ids.length

/** Goes on with so many beams, each a token longer. */
function branch(run: Sequence, blocks: Map<Beam, number>, live: number): void {
  const kept = run.beams.slice(0, live)
  for (const beam of run.beams.slice(live)) blocks.delete(beam)
  const children = ascending(live - kept.length).map((): Beam => ({ ...kept[0], ids: [...kept[0].ids] }))
  for (const child of children) blocks.set(child, blocksFor(child.cached))
  run.beams = [...kept, ...children]
  for (const { ids } of run.beams) ids.push(0)
}

/** Plays the engine over counts alone: prompts arrive, plans are carried out, each decode row adds a token. */
function simulate(seed: number): void {
  const random = seeded(seed)
  const totalBlocks = 1 + random(12)
  const drawn: Limits = { chunk: 1 + random(200), maxSequences: 1 + random(8), maxBatchTokens: 1 + random(300) }
  const goals = new Map<Sequence, number>()
  const arriving = Array.from({ length: 1 + random(12) }, (_, arrival) => {
    const beams = random(4) === 0 ? 1 + random(5) : 1
    const made = { ...sequence(`s${arrival}`, 1 + random(random(4) === 0 ? 1800 : 300), 0, 0, beams), arrival }
    goals.set(made, lengthOf(made) + 1 + random(200))
    return made
  })
  const blocks = new Map<Beam, number>()
  const held = ({ beams }: Sequence): number => beams.reduce((sum, beam) => sum + (blocks.get(beam) ?? 0), 0)
  const freeBlocks = (): number => totalBlocks - [...blocks.values()].reduce((sum, n) => sum + n, 0)
  let waiting: Sequence[] = []
  let running: Sequence[] = []
  let stepsLeft = 0

  const leave = (gone: Sequence): void => {
    for (const beam of gone.beams) blocks.delete(beam)
    running = running.filter((other) => other !== gone)
    waiting = waiting.filter((other) => other !== gone)
  }

  while (arriving.length + waiting.length + running.length > 0) {
    while (arriving.length > 0 && (waiting.length + running.length === 0 || random(5) === 0)) {
      const arrived = arriving.shift()!
      stepsLeft += goals.get(arrived)! + 1
      waiting.push(arrived)
    }
    // The oldest sequence runs at least one token in each step, so no more steps than tokens can pass.
    assert(--stepsLeft >= 0)

    const state = {
      waiting: [...waiting],
      running: [...running],
      limits: drawn,
      cache: { freeBlocks: freeBlocks(), held, blocksFor },
    }
    const decided = schedule(state)
    if (random(20) === 0) assert.equal(written(schedule(state)), written(decided))
    check(decided, state, totalBlocks)

    for (const gone of decided.fail) {
      const places = Math.min(drawn.maxSequences, drawn.maxBatchTokens)
      assert(seatsOf(gone) * blocksFor(lengthOf(gone)) > totalBlocks || seatsOf(gone) > places)
      leave(gone)
    }
    for (const latest of decided.preempt) {
      leave(latest)
      latest.beams = [{ ...latest.beams[0], cached: 0 }]
      waiting.unshift(latest)
    }
    for (const admitted of decided.admit) {
      assert.equal(waiting.shift(), admitted)
      running.push(admitted)
      const [beam] = admitted.beams
      if (random(3) === 0) beam.cached = random(beam.ids.length)
      blocks.set(beam, blocksFor(beam.cached))
    }
    for (const { beam, begin, end } of decided.rows.map(advance)) {
      assert(begin === beam.cached && end > begin)
      blocks.set(beam, blocksFor(end))
      beam.cached = end
    }
    for (const run of new Set(decided.rows.map((row) => row.sequence))) {
      if (run.beams[0].cached < lengthOf(run)) continue
      assert(run.beams.every(({ cached }) => cached === lengthOf(run)))
      branch(run, blocks, 1 + random(seatsOf(run)))
      if (lengthOf(run) > goals.get(run)!) leave(run)
    }
    assert(freeBlocks() >= 0)
  }
}

type State = { waiting: Sequence[]; running: Sequence[]; limits: Limits }

/** What holds of every single plan. */
function check({ fail, preempt, admit, rows }: Plan, { waiting, running, limits }: State, totalBlocks: number): void {
  const kept = running.filter((one) => !fail.includes(one) && !preempt.includes(one))
  const left = ({ beams: [{ ids, cached }] }: Sequence): number => ids.length - cached
  const seats = [...kept, ...admit].reduce((sum, one) => sum + seatsOf(one), 0)
  const tokens = rows.reduce((sum, { begin, end }) => sum + end - begin, 0)
  const decoding = kept.filter((one) => left(one) === 1).flatMap(({ beams }) => beams)
  const blocksOf = (one: Sequence): number => seatsOf(one) * blocksFor(lengthOf(one))
  const entitled = [...kept, ...admit].reduce((sum, one) => sum + blocksOf(one), 0)

  assert(entitled <= totalBlocks)
  assert(tokens <= limits.maxBatchTokens && seats <= Math.min(limits.maxSequences, limits.maxBatchTokens))
  assert(decoding.every((beam, i) => rows[i].beam === beam))
  const oneToken = rows.map((row) => left(row.sequence) === 1)
  assert(oneToken.lastIndexOf(true) < oneToken.concat(false).indexOf(false))
  for (const { begin, end } of rows) assert(end - begin <= limits.chunk)

  const prompt = kept.find((one) => left(one) > 1)
  const room = limits.maxBatchTokens - decoding.length
  const share = rows.find(({ sequence: run }) => run === prompt)
  if (prompt) assert.equal(share && share.end - share.begin, Math.min(left(prompt), limits.chunk, room))
  for (const admitted of admit) assert(rows.some(({ sequence: run }) => run === admitted))

  const latest = running.filter((one) => !fail.includes(one)).slice(kept.length)
  assert.equal(names(latest.reverse()), names(preempt))
  assert(preempt.length === 0 || admit.length === 0)
  const able = waiting.filter((one) => !fail.includes(one))
  assert(admit.every((one, i) => able[i] === one))
  const next = able[admit.length]
  const full =
    preempt.length > 0 ||
    tokens === limits.maxBatchTokens ||
    (next && seats + seatsOf(next) > Math.min(limits.maxSequences, limits.maxBatchTokens)) ||
    (next && entitled + blocksOf(next) > totalBlocks)
  assert(next === undefined || full)
}

describe('a simulated engine', () => {
  it('finishes every sequence and keeps every limit, whatever arrives', () => {
    for (let seed = 0; seed < 2000; seed++) expect(() => simulate(seed), `seed ${seed}`).not.toThrow()
  })
})

describe('a source', () => {
  const waiting = ['a', 'b', 'c'].map((id) => sequence(id, 1, 0, 60))

  it('takes rows of the step that admits it, and of no other', () => {
    expect(names(plan([], waiting).admit)).toBe('a b')
    const running = waiting.slice(0, 2)
    expect(names(plan(running, waiting.slice(2)).admit)).toBe('c')
  })

  it('that is longer than a step enters last', () => {
    const long = sequence('long', 1, 0, 500)
    expect(names(plan([], [waiting[0], long, waiting[1]]).admit)).toBe('a long')
    expect(names(plan([], [long, ...waiting]).admit)).toBe('long')
  })

  it('takes blocks beside its sequence’s', () => {
    expect(names(plan([], waiting, 5).admit)).toBe('a b')
    expect(names(plan([], waiting, 3).admit)).toBe('a')
    expect(names(plan([], [sequence('large', 1, 0, 400)], 4).fail)).toBe('large')
    expect(names(plan([], [sequence('large', 1, 0, 400)], 5).admit)).toBe('large')
  })
})

describe('a search', () => {
  it('runs a row of every live beam, and its prompt once', () => {
    expect(plan([search('a', 10, 4, 3)], []).rows.map(({ beam }) => beam.id)).toEqual(['a0', 'a1', 'a2'])
    expect(plan([], [sequence('a', 10, 0, 0, 4)]).rows.map(({ beam }) => beam.id)).toEqual(['a0'])
  })

  it('takes the seats and blocks of all beams that it may come to have', () => {
    const waiting = [sequence('a', 10, 0, 0, 4), sequence('b', 10, 0, 0, 4), sequence('c', 10)]
    expect(names(plan([], waiting).admit)).toBe('a b')
    expect(names(plan([], waiting, 100, { maxSequences: 7 }).admit)).toBe('a')
    expect(names(plan([], waiting, 100, { maxSequences: 9 }).admit)).toBe('a b c')
    expect(names(plan([], waiting, 7, { maxSequences: 9 }).admit)).toBe('a')
  })

  it('is preempted as one', () => {
    const running = [sequence('a', 129, 128), search('b', 128, 3, 2)]
    expect(names(plan(running, [], 4).preempt)).toBe('b')
  })

  it('fails where its beams are more than a step has places or the cache has room', () => {
    expect(names(plan([], [sequence('a', 10, 0, 0, 9)]).fail)).toBe('a')
    expect(names(plan([], [sequence('a', 10, 0, 0, 4)], 3).fail)).toBe('a')
  })
})
