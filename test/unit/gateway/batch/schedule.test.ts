import assert from 'node:assert/strict'
import { describe, expect, it } from 'vitest'
import { advance, type Limits, type Plan, type Span, schedule } from '../../../../services/gateway/batch/schedule.ts'
import type { GenerationRequest, Sequence } from '../../../../services/gateway/sequence.ts'
import { seeded } from '../../../support/random.ts'

const blockRows = 128
const blocksFor = (tokens: number): number => Math.ceil(tokens / blockRows)
const limits: Limits = { chunk: 64, maxSequences: 8, maxBatchTokens: 100 }

const sequence = (id: string, tokens: number, cached = 0, source = 0): Sequence => ({
  request: { id, source: Array.from({ length: source }, (_, i) => i) as readonly number[] } as GenerationRequest,
  ids: Array.from({ length: tokens }, (_, i) => i),
  cached,
  status: 'waiting',
  arrival: 0,
})

/** A cache that holds what the running sequences need so far. */
const counts = (running: readonly Sequence[], totalBlocks: number) => {
  const held = (id: string): number => blocksFor(running.find(({ request }) => request.id === id)?.cached ?? 0)
  const used = running.reduce((sum, { request }) => sum + held(request.id), 0)
  return { freeBlocks: totalBlocks - used, held, blocksFor }
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
    const row = { sequence: opened, begin: 0, end: 64 }
    expect(spans([advance(row)])).toBe('a[0,64)')
    opened.cached = 100
    expect(spans([advance(row)])).toBe('a[100,164)')
    opened.cached = 199
    expect(spans([advance(row)])).toBe('a[199,200)')
  })
})

const written = ({ fail, preempt, admit, rows }: Plan): string =>
  [names(fail), names(preempt), names(admit), spans(rows)].join('|')

/** Plays the engine over counts alone: prompts arrive, plans are carried out, each decode row adds a token. */
function simulate(seed: number): void {
  const random = seeded(seed)
  const totalBlocks = 1 + random(12)
  const drawn: Limits = { chunk: 1 + random(200), maxSequences: 1 + random(8), maxBatchTokens: 1 + random(300) }
  const goals = new Map<Sequence, number>()
  const arriving = Array.from({ length: 1 + random(12) }, (_, arrival) => {
    const made = { ...sequence(`s${arrival}`, 1 + random(random(4) === 0 ? 1800 : 300)), arrival }
    goals.set(made, made.ids.length + 1 + random(200))
    return made
  })
  const blocks = new Map<string, number>()
  const freeBlocks = (): number => totalBlocks - [...blocks.values()].reduce((sum, n) => sum + n, 0)
  let waiting: Sequence[] = []
  let running: Sequence[] = []
  let stepsLeft = 0

  const leave = (gone: Sequence): void => {
    blocks.delete(gone.request.id)
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
      cache: { freeBlocks: freeBlocks(), held: (id: string) => blocks.get(id) ?? 0, blocksFor },
    }
    const decided = schedule(state)
    if (random(20) === 0) assert.equal(written(schedule(state)), written(decided))
    check(decided, state, totalBlocks)

    for (const gone of decided.fail) {
      assert(blocksFor(gone.ids.length) > totalBlocks)
      leave(gone)
    }
    for (const latest of decided.preempt) {
      leave(latest)
      latest.cached = 0
      waiting.unshift(latest)
    }
    for (const admitted of decided.admit) {
      assert.equal(waiting.shift(), admitted)
      running.push(admitted)
      if (random(3) === 0) admitted.cached = random(admitted.ids.length)
      blocks.set(admitted.request.id, blocksFor(admitted.cached))
    }
    for (const { sequence: run, begin, end } of decided.rows.map(advance)) {
      assert(begin === run.cached && end > begin)
      blocks.set(run.request.id, blocksFor(end))
      run.cached = end
      if (end < run.ids.length) continue
      run.ids.push(0)
      if (run.ids.length > goals.get(run)!) leave(run)
    }
    assert(freeBlocks() >= 0)
  }
}

type State = { waiting: Sequence[]; running: Sequence[]; limits: Limits }

/** What holds of every single plan. */
function check({ fail, preempt, admit, rows }: Plan, { waiting, running, limits }: State, totalBlocks: number): void {
  const kept = running.filter((one) => !fail.includes(one) && !preempt.includes(one))
  const left = ({ ids, cached }: Sequence): number => ids.length - cached
  const tokens = rows.reduce((sum, { begin, end }) => sum + end - begin, 0)
  const decoding = kept.filter((one) => left(one) === 1)
  const entitled = [...kept, ...admit].reduce((sum, { ids }) => sum + blocksFor(ids.length), 0)

  assert(entitled <= totalBlocks)
  assert(tokens <= limits.maxBatchTokens && kept.length + admit.length <= limits.maxBatchTokens)
  assert(kept.length + admit.length <= limits.maxSequences)
  assert(decoding.every((one, i) => rows[i].sequence === one))
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
    kept.length + admit.length === limits.maxSequences ||
    (next && entitled + blocksFor(next.ids.length) > totalBlocks)
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
    const running = waiting.slice(0, 2).map((one) => Object.assign({ ...one }, { cached: 0 }))
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
