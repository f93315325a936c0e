import { setTimeout as delay } from 'node:timers/promises'
import { expect, test, vi } from 'vitest'
import { type Arrived, dispatch } from '../../../../services/gateway/forward/dispatch.ts'
import type { Routes } from '../../../../services/gateway/forward/route.ts'
import { type Topology, topologyOf } from '../../../../services/gateway/placement/locate.ts'
import type { WorkerRunners } from '../../../../services/gateway/placement/runners.ts'
import { Code, MeshError } from '../../../../shared/errors.ts'
import { seeded } from '../../../support/random.ts'
import { expertRows, failing, openPeer, openRunners, type Peer, silence } from '../../../support/scripted.ts'

const LAYER = 3
const EXPERTS = 8
const HIDDEN = 4

/** Peers that all hold every expert of the layer, unless a topology says otherwise. */
const open = (peers: readonly Peer[], topology?: Topology) => {
  const states: string[] = []
  const all = [{ layer: LAYER, experts: [...Array(EXPERTS).keys()] }]
  const names = peers.map(({ name }) => name)
  const homes = names.map(() => all)
  const runners = openRunners(peers, topology ?? topologyOf(1, names, homes), (address, state) =>
    states.push(`${address} ${state}`),
  )
  return { runners, states }
}

const work = (seed: number, rowCount: number, topK = 3) => {
  const next = seeded(seed)
  const rows = Float32Array.from({ length: rowCount * HIDDEN }, () => next(1000))
  const ids = new Uint32Array(rowCount * topK)
  for (let row = 0; row < rowCount; row++) {
    const chosen = new Set<number>()
    while (chosen.size < topK) chosen.add(next(EXPERTS))
    ids.set(
      [...chosen].sort((a, b) => a - b),
      row * topK,
    )
  }
  const routes: Routes = { topK, ids, weights: new Float32Array(ids.length).fill(1) }
  return { attended: { h: rows, rows, scale: null, affinity: null, share: null }, routes }
}

type Work = ReturnType<typeof work>
const run = async (
  runners: WorkerRunners,
  { attended, routes }: Work,
  { timeoutMs = 5_000, frameBytesMax = 1 << 20, signal = new AbortController().signal } = {},
): Promise<Arrived> => {
  const limits = { timeoutMs, frameBytesMax }
  const handle = await dispatch(runners, LAYER, HIDDEN, attended, routes, limits, signal)
  return handle.rows
}

/** Every assignment has the row that its expert makes of it. */
const expectRows = ({ sources, source, offset }: Arrived, { attended, routes }: Work): void => {
  for (const [assignment, expert] of routes.ids.entries()) {
    const row = Math.floor(assignment / routes.topK)
    const got = sources[source[assignment]].rows.slice(offset[assignment], offset[assignment] + HIDDEN)
    const expected = attended.rows.slice(row * HIDDEN, (row + 1) * HIDDEN).map((value) => value + 1000 * LAYER + expert)
    expect(got).toEqual(expected)
  }
}

/** Enough calls that the runners know how long an answer takes. */
const warmUp = async (runners: WorkerRunners): Promise<void> => {
  for (let i = 0; i < 40; i++) await run(runners, work(i, 4))
}

test('every assignment gets its row, for any number of workers, rows and frames', async () => {
  for (let seed = 0; seed < 40; seed++) {
    const { runners } = open(Array.from({ length: 1 + (seed % 5) }, (_, i) => openPeer(`w${i}`)))
    const some = work(seed, 1 + (seed % 9), 1 + (seed % 4))
    expectRows(await run(runners, some, { frameBytesMax: seed % 2 ? 64 : 1 << 20 }), some)
  }
})

test('the few rows of an expert go to one worker in one frame, each row once; many are shared by its holders', async () => {
  const peers = [openPeer('a'), openPeer('b')]
  await run(open(peers).runners, work(1, 16))
  const frames = peers.flatMap((peer) => peer.frames)
  const experts = frames.flatMap(({ expert }) => [...new Set(expert)])
  expect(new Set(experts).size).toBe(experts.length)
  for (const { rows, rowCount, rowIndex } of frames) {
    expect(rows.length).toBe(rowCount * HIDDEN)
    expect(new Set(rowIndex).size).toBe(rowCount)
  }

  const hot = work(2, 512, 1)
  hot.routes.ids.fill(5)
  const sharing = [openPeer('a'), openPeer('b')]
  expectRows(await run(open(sharing).runners, hot), hot)
  for (const {
    frames: [frame],
  } of sharing)
    expect(frame.rowCount).toBeGreaterThan(64)
})

test.each([
  ['a lost stream', Code.UNAVAILABLE],
  ['an expert that is no longer held', Code.FAILED_PRECONDITION],
  ['a full queue', Code.RESOURCE_EXHAUSTED],
  ['a corrupt or short reply', Code.DATA_LOSS],
  ['a kernel that failed', Code.INTERNAL],
])('%s: only what is unfinished goes to another holder', async (_, code) => {
  const broken = openPeer('broken', failing(code))
  const sound = openPeer('sound')
  const { runners } = open([broken, sound])
  for (let seed = 0; seed < 20; seed++) {
    const some = work(seed, 5)
    expectRows(await run(runners, some), some)
  }
  expect(broken.frames.length).toBeGreaterThan(0)
})

test('a worker that does not answer is asked no more after three overdue calls, and again once a trial went well', async () => {
  const silent = openPeer('silent')
  const { runners, states } = open([silent, openPeer('sound')])
  await warmUp(runners)
  silent.script = silence
  const before = silent.frames.length
  const runSome = async (seed: number): Promise<void> => {
    const some = work(seed, 4)
    expectRows(await run(runners, some), some)
  }
  for (let seed = 0; states.length === 0; seed++) await runSome(seed)
  expect(silent.frames.length - before).toBe(3)
  const ejectedMs = performance.now()
  for (let seed = 0; seed < 30; seed++) await runSome(seed)
  // But for trials: the first after 250 ms, each of the others after twice as long.
  const trialsMax = Math.floor(Math.log2(1 + (performance.now() - ejectedMs) / 250))
  expect(silent.frames.length - before - 3).toBeLessThanOrEqual(trialsMax)
  expect(states).toEqual(['silent ejected'])
  silent.script = () => ({})
  await vi.waitUntil(
    async () => {
      await run(runners, work(1, 4))
      return states.at(-1) === 'silent live'
    },
    { timeout: 10_000 },
  )
})

test('the reply of a worker that was slow once still counts, and it stays', async () => {
  const slow = openPeer('slow')
  const { runners, states } = open([slow, openPeer('sound')])
  await warmUp(runners)
  const script = slow.script
  slow.script = () => delay(30).then(() => ({}))
  const some = work(1, 16)
  expectRows(await run(runners, some), some)
  slow.script = script
  await warmUp(runners)
  expect(states).toEqual([])
})

test('an expert whose last holder is gone waits for another, and for a time at most', async () => {
  const [gone, next] = [openPeer('gone', failing(Code.UNAVAILABLE)), openPeer('next')]
  gone.alive = false
  const all = [{ layer: LAYER, experts: [...Array(EXPERTS).keys()] }]
  const { runners, states } = open([gone, next], topologyOf(1, ['gone'], [all]))
  const some = work(1, 4)
  await expect(run(runners, some, { timeoutMs: 200 })).rejects.toMatchObject({
    code: Code.UNAVAILABLE,
    message: expect.stringMatching(/no worker holds \(layer 3, expert \d\), and none came to within 200 ms/),
  })
  expect(states).toEqual(['gone lost'])
  const waiting = run(runners, some)
  await delay(20)
  runners.setTopology(topologyOf(2, ['next'], [all]))
  expectRows(await waiting, some)
})

test('experts whose holders go one after the other, the last one first, leave for the next in order', async () => {
  const homes = [...Array(EXPERTS).keys()].map((expert) => [{ layer: LAYER, experts: [expert] }])
  const going = homes.map((_, expert) =>
    openPeer(`w${expert}`, () => delay(5 * (EXPERTS - expert)).then(failing(Code.UNAVAILABLE))),
  )
  for (const peer of going) peer.alive = false
  const next = openPeer('next')
  const names = going.map(({ name }) => name)
  const { runners, states } = open([...going, next], topologyOf(1, names, homes))
  const some = work(1, 16)
  const waiting = run(runners, some)
  await vi.waitUntil(() => states.length === EXPERTS)
  runners.setTopology(topologyOf(2, ['next'], [[{ layer: LAYER, experts: [...Array(EXPERTS).keys()] }]]))
  expectRows(await waiting, some)
  const [{ expert }] = next.frames
  expect(expert).toEqual(expert.toSorted())
  expect(expert.length).toBe(some.routes.ids.length)
})

test('a lost worker that answers again is asked again', async () => {
  const back = openPeer('back', (_, call) => {
    if (call === 1) throw new MeshError(Code.UNAVAILABLE, 'the stream broke')
    return {}
  })
  const { runners, states } = open([back])
  const some = work(1, 4)
  expectRows(await run(runners, some), some)
  expect(states).toEqual(['back lost', 'back live'])
})

test('values that are not finite: from one worker it is that worker, from two it is the request', async () => {
  const nothing = Number.NaN
  const broken = openPeer('broken', (frame) => ({ finite: false, rows: expertRows(frame).fill(nothing) }))
  const { runners, states } = open([broken, openPeer('sound')])
  for (let seed = 0; seed < 40; seed++) {
    const some = work(seed, 5)
    expectRows(await run(runners, some), some)
  }
  expect(states[0]).toBe('broken ejected')
  expect(states).not.toContain('sound ejected')

  const alone = open([openPeer('alone', (frame) => ({ finite: false, rows: expertRows(frame).fill(nothing) }))])
  const { sources } = await run(alone.runners, work(1, 2))
  expect(sources.every(({ rows }) => rows.every(Number.isNaN))).toBe(true)
  expect(alone.states).toEqual([])
})

test.each([
  ['is late', async () => delay(200, {}), []],
  ['fails, while a third is sound', failing(Code.UNAVAILABLE), ['third']],
  ['is silent, while a third is sound', silence, ['third']],
])('whose values are not finite is no second opinion where another %s', async (_, script, sound) => {
  for (let seed = 0; seed < 6; seed++) {
    let spoilt = false
    const broken = openPeer('broken', (frame) =>
      spoilt ? { finite: false, rows: expertRows(frame).fill(Number.NaN) } : {},
    )
    const other = openPeer('other', () => (spoilt ? script() : {}))
    const { runners } = open([broken, other, ...sound.map((name) => openPeer(name))])
    await warmUp(runners)
    spoilt = true
    const some = work(seed, 5)
    expectRows(await run(runners, some), some)
  }
})

test('a worker whose values are finite and wrong is found by audit and never asked again', async () => {
  const liar = openPeer('liar', (frame) => ({ rows: expertRows(frame).map((value) => value + 1) }))
  const { runners, states } = open([liar, openPeer('sound')])
  await vi.waitUntil(
    async () => {
      for (let seed = 0; seed < 50; seed++) await run(runners, work(seed, 8))
      return states.includes('liar liar')
    },
    { timeout: 20_000, interval: 1 },
  )
  const asked = liar.frames.length
  for (let seed = 0; seed < 50; seed++) {
    const some = work(seed, 8)
    expectRows(await run(runners, some), some)
  }
  expect(liar.frames.length).toBe(asked)
  expect(states).toEqual(['liar liar'])
})

test('calling a step off calls its frames off', async () => {
  const peer = openPeer('silent', silence)
  const abort = new AbortController()
  const { runners } = open([peer])
  const waiting = run(runners, work(1, 4), { signal: abort.signal })
  await vi.waitUntil(() => peer.frames.length > 0)
  abort.abort()
  await expect(waiting).rejects.toMatchObject({ code: Code.CANCELLED })
  expect(peer.cancelled).toBe(1)
})

test('a worker that left the topology finishes what it has and is then let go', async () => {
  const leaving = openPeer('leaving', () => delay(50).then(() => ({})))
  const close = vi.spyOn(leaving, 'close')
  const { runners } = open([leaving])
  const some = work(1, 4)
  const answered = run(runners, some)
  await vi.waitUntil(() => leaving.frames.length > 0)
  runners.setTopology(topologyOf(2, [], []))
  expect(close).not.toHaveBeenCalled()
  expectRows(await answered, some)
  expect(close).toHaveBeenCalledOnce()
})
