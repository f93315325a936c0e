import { describe, expect, it } from 'vitest'
import { advance } from '../../../../services/gateway/batch/schedule.ts'
import type { Sequence } from '../../../../services/gateway/sequence.ts'
import { names, plan, sequence, spans } from '../../../support/plans.ts'

const search = (id: string, tokens: number, beams: number, live: number): Sequence =>
  sequence(id, tokens, tokens - 1, 0, beams, live)

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
