import { expect, test } from 'vitest'
import { byExpert, spread, workOf } from '../../../../services/gateway/forward/lot.ts'
import { topologyOf } from '../../../../services/gateway/placement/locate.ts'
import { openPeer, openRunners } from '../../../support/scripted.ts'

const TURNS = 100

test('holders of several experts stand level: who has less choice is served first', () => {
  const peers = ['a', 'b', 'c', 'd'].map((name) => openPeer(name))
  // The largest expert has three holders, the next one two, and every worker has one of its own besides.
  const experts = [
    [0, 2],
    [0, 1, 3],
    [0, 4],
    [1, 5],
  ]
  const rows = [196, 122, 53, 33, 60, 76]
  const names = peers.map(({ name }) => name)
  const homes = experts.map((held) => [{ layer: 0, experts: held }])
  const runners = openRunners(peers, topologyOf(1, names, homes))
  const ids = Uint32Array.from(rows.flatMap((count, expert) => Array<number>(count).fill(expert)))
  const routes = { topK: 1, ids, weights: new Float32Array(ids.length).fill(1) }

  const given = new Map(peers.map((peer) => [peer.name, 0]))
  for (let turn = 0; turn < TURNS; turn++) {
    const { lots, homeless } = spread(runners, 0, routes, byExpert(routes), { avoid: new Set() })
    expect(homeless).toEqual([])
    for (const [{ name }, assignments] of lots) given.set(name, (given.get(name) ?? 0) + assignments.length)
  }
  const all = rows.reduce((sum, count) => sum + count) * TURNS
  expect([...given.values()].reduce((sum, count) => sum + count)).toBe(all)
  expect((Math.max(...given.values()) * peers.length) / all).toBeLessThan(1.04)
})

test('work is rows and, once for each expert, the weights that are read for them', () => {
  const routes = { topK: 2, ids: Uint32Array.of(3, 5, 5, 8, 3, 5), weights: new Float32Array(6) }
  const weights = workOf(routes, [0]) - 1
  expect(weights).toBeGreaterThan(0)
  expect(workOf(routes, [])).toBe(0)
  expect(workOf(routes, [0, 4, 1, 2, 5])).toBe(5 + 2 * weights)
  expect(workOf(routes, [...byExpert(routes)])).toBe(6 + 3 * weights)
})
