import assert from 'node:assert/strict'
import { expect, it } from 'vitest'
import { advance, type Limits, type Plan, schedule, seatsOf } from '../../../../services/gateway/batch/schedule.ts'
import type { Beam, Sequence } from '../../../../services/gateway/sequence.ts'
import { ascending, blocksFor, names, sequence, spans } from '../../../support/plans.ts'
import { seeded } from '../../../support/random.ts'

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

it('a simulated engine finishes every sequence and keeps every limit, whatever arrives', () => {
  for (let seed = 0; seed < 2000; seed++) expect(() => simulate(seed), `seed ${seed}`).not.toThrow()
})
