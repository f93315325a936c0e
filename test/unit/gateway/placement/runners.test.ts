import { expect, test } from 'vitest'
import { topologyOf } from '../../../../services/gateway/placement/locate.ts'
import { openPeer, openRunners } from '../../../support/scripted.ts'

const ROUNDS = 4_000

/** Shares of one expert's assignments that holders get who answer one after so many milliseconds, one after another. */
const sharesOf = (msPerAssignment: readonly number[]): number[] => {
  const peers = msPerAssignment.map((_, i) => openPeer(`w${i}`))
  const names = peers.map(({ name }) => name)
  const home = [{ layer: 0, experts: [0] }]
  const homes = names.map(() => home)
  const runners = openRunners(peers, topologyOf(1, names, homes))
  const outcome = (i: number) => ({ kind: 'answered', ms: msPerAssignment[i], work: 1, busyUs: 0 }) as const
  for (const [i, peer] of peers.entries())
    for (let n = 0; n < 10; n++) {
      runners.sent(peer, 1)
      runners.settled(peer, 1, outcome(i))
    }
  // As many come as all of them can answer together.
  const everyMs = 1 / msPerAssignment.reduce((sum, ms) => sum + 1 / ms, 0)
  const picked = peers.map(() => 0)
  const doneMs: number[][] = peers.map(() => [])
  for (let round = 0; round < ROUNDS; round++) {
    const nowMs = round * everyMs
    for (const [i, done] of doneMs.entries())
      while (done.length > 0 && done[0] <= nowMs) {
        done.shift()
        runners.settled(peers[i], 1, outcome(i))
      }
    const chosen = runners.pick(0, 0, { planned: new Map(), avoid: new Set() })
    const i = names.indexOf(chosen?.name ?? '')
    runners.sent(peers[i], 1)
    picked[i]++
    doneMs[i].push((doneMs[i].at(-1) ?? nowMs) + msPerAssignment[i])
  }
  return picked.map((count) => count / ROUNDS)
}

test('holders of an expert get shares that fit their speeds, the fastest of many too', () => {
  for (const speeds of [
    [1, 1],
    [1, 1, 1, 1],
    [1, 2, 4],
    [1, 1, 10],
    [1, 1, 1, 1, 12],
  ]) {
    const total = speeds.reduce((sum, speed) => sum + speed)
    const shares = sharesOf(speeds.map((speed) => 1 / speed))
    for (const [i, share] of shares.entries()) expect(Math.abs(share - speeds[i] / total)).toBeLessThan(0.05)
  }
})
