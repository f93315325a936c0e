import { setTimeout as delay } from 'node:timers/promises'
import type { ExpertFrame } from '../../../shared/model/experts.ts'
import { equalRows, type TokenRows } from '../../../shared/model/rows.ts'
import type { Outcome, Runner, Runners } from '../forward/dispatch.ts'
import type { Remote } from '../forward/remote.ts'
import { Health, type State } from './health.ts'
import type { Topology } from './locate.ts'

/** Extra calls per call, and how many may be saved up. */
const HEDGE_SHARE = 0.05
const HEDGES_SAVED_MAX = 10
/** One in so many assignments is run again elsewhere and compared. */
const AUDIT_EVERY = 1_000
/** A lost runner is asked again after this, doubled up to the last. */
const PING_FIRST_MS = 50
const PING_LAST_MS = 2_000
const PING_LIMIT_MS = 1_000
/** What a worker is taken to need per assignment before anything is known: little, so that it is tried. */
const UNKNOWN_MS = 0.001
/** Longest wait for a third opinion. */
const OPINION_LIMIT_MS = 10_000

type Member = {
  runner: Remote
  health: Health
  leaving: boolean
  /** Work answered and the time it took, since the last report. */
  done: { work: number; busyUs: number }
  /** Told when nothing is outstanding, or it is live no longer. */
  idle: (() => void)[]
}

export type WorkerReport = { address: string; state: State; outstanding: number; work: number; busyUs: number }
export type Counts = { hedged: number; failed: number; ejected: number; lost: number; audited: number; lied: number }

export type RunnersOptions = {
  connect(address: string): Remote
  /** A worker's state has changed: whoever places experts should look. */
  onState(address: string, state: State): void
  /** Computes a frame here, to settle which of two workers is wrong. */
  referee(frame: ExpertFrame): Promise<TokenRows>
}

/** The workers of the topology as runners of experts: whom to ask, how they have done, who must be asked again. */
export class WorkerRunners implements Runners {
  readonly #options: RunnersOptions
  readonly #members = new Map<string, Member>()
  readonly #byRunner = new Map<Runner, Member>()
  #topology: Topology = { version: 0, workers: [], replicas: [] }
  #hedges = HEDGES_SAVED_MAX
  #unaudited = 0
  readonly #trials = new Set<Runner>()
  #notify!: () => void
  #changed!: Promise<void>
  #closed = false
  readonly #counts: Counts = { hedged: 0, failed: 0, ejected: 0, lost: 0, audited: 0, lied: 0 }

  constructor(options: RunnersOptions) {
    this.#options = options
    this.#renew()
  }

  /**
   * From now on experts are looked for here. Workers that are no longer named finish what they have. Settles when every live
   * worker has answered what was sent before.
   */
  setTopology(topology: Topology): Promise<void> {
    const busy = [...this.#members.values()].filter(({ health }) => health.state === 'live' && health.outstanding > 0)
    this.#topology = topology
    const named = new Set(topology.workers)
    for (const address of named) {
      const known = this.#members.get(address)
      if (known) known.leaving = false
      else this.#join(address)
    }
    for (const [address, member] of this.#members) {
      if (named.has(address)) continue
      member.leaving = true
      this.#leave(member)
    }
    this.#announce()
    return Promise.all(busy.map((member) => new Promise<void>((resolve) => member.idle.push(resolve)))).then(() => {})
  }

  pick(layer: number, expert: number, { planned, avoid }: Parameters<Runners['pick']>[2]): Runner | null {
    const holders = this.#holders(layer, expert).filter(({ runner }) => !avoid.has(runner))
    const live = holders.filter(({ health }) => health.state === 'live')
    const asked = live.length > 0 ? live : holders.filter(({ health }) => health.state === 'ejected')
    if (asked.length < 2) return asked[0]?.runner ?? null
    // Power of two choices (Mitzenmacher 2001): the less loaded of two at random, drawn by speed, or who is as fast as several others
    // would be left out of too many draws to get its share.
    const first = draw(asked)
    const second = draw(asked.filter((member) => member !== first))
    const cost = (member: Member): number =>
      (member.health.outstanding + (planned.get(member.runner) ?? 0) + 1) * msOf(member)
    return cost(first) <= cost(second) ? first.runner : second.runner
  }

  copies(layer: number, expert: number): number {
    return this.#topology.replicas[layer]?.[expert]?.length ?? 0
  }

  patience(runner: Runner): { overdueMs: number; stalledMs: number } {
    return this.#of(runner).health.patience()
  }

  mayHedge(): boolean {
    if (this.#hedges < 1) return false
    this.#hedges--
    this.#counts.hedged++
    return true
  }

  sent(runner: Runner, assignments: number): void {
    this.#hedges = Math.min(HEDGES_SAVED_MAX, this.#hedges + HEDGE_SHARE)
    this.#of(runner).health.outstanding += assignments
  }

  settled(runner: Runner, assignments: number, outcome: Outcome): void {
    const member = this.#of(runner)
    if (outcome.kind === 'failed') this.#counts.failed++
    if (outcome.kind === 'answered') {
      member.done.work += outcome.work
      member.done.busyUs += outcome.busyUs
    }
    if (member.health.settle(assignments, outcome, performance.now())) {
      const { state } = member.health
      if (state === 'lost') this.#counts.lost++
      if (state === 'ejected') this.#counts.ejected++
      this.#options.onState(runner.name, state)
      if (state === 'lost') void this.#revive(member)
    }
    if (member.health.outstanding === 0 || member.health.state !== 'live')
      for (const tell of member.idle.splice(0)) tell()
    if (member.leaving) this.#leave(member)
  }

  changed(): Promise<void> {
    return this.#changed
  }

  examiner(layer: number, expert: number, assignments: number, by: Runner): Runner | null {
    const nowMs = performance.now()
    const others = this.#holders(layer, expert).filter(({ runner }) => runner !== by)
    const suspect = others.find(({ runner, health }) => health.trialDue(nowMs) && !this.#trials.has(runner))
    if (suspect) {
      suspect.health.beginTrial(nowMs)
      this.#trials.add(suspect.runner)
      return suspect.runner
    }
    this.#unaudited += assignments
    if (this.#unaudited < AUDIT_EVERY) return null
    const live = others.filter(({ health }) => health.state === 'live')
    if (live.length === 0) return null
    this.#unaudited -= AUDIT_EVERY
    this.#counts.audited++
    return live[Math.floor(Math.random() * live.length)].runner
  }

  examined(runner: Runner, by: Runner, frame: ExpertFrame, rows: Parameters<Runners['examined']>[3]): void {
    const trial = this.#trials.delete(runner)
    const { again, first } = rows
    if (!again) return
    if (!equalRows(again, first)) void this.#arbitrate(runner, by, frame, { again, first })
    else if (trial) this.#recover(this.#of(runner))
  }

  /** State and outstanding assignments of every worker, what it has done since the last report, and what happened since the start. */
  report(): { workers: WorkerReport[]; counts: Counts } {
    const workers = [...this.#members].map(([address, member]): WorkerReport => {
      const { health, done } = member
      member.done = { work: 0, busyUs: 0 }
      return { address, state: health.state, outstanding: health.outstanding, ...done }
    })
    return { workers, counts: { ...this.#counts } }
  }

  close(): void {
    this.#closed = true
    for (const { runner } of this.#members.values()) runner.close()
  }

  #join(address: string): void {
    const member = {
      runner: this.#options.connect(address),
      health: new Health(),
      leaving: false,
      idle: [],
      done: { work: 0, busyUs: 0 },
    }
    this.#members.set(address, member)
    this.#byRunner.set(member.runner, member)
  }

  /** Closes the connection of a worker that left, once its last call is settled. */
  #leave({ runner, health }: Member): void {
    if (health.outstanding > 0) return
    this.#members.delete(runner.name)
    this.#byRunner.delete(runner)
    runner.close()
  }

  #of(runner: Runner): Member {
    return (
      this.#byRunner.get(runner) ?? {
        runner: runner as Remote,
        health: new Health(),
        leaving: false,
        idle: [],
        done: { work: 0, busyUs: 0 },
      }
    )
  }

  #holders(layer: number, expert: number): Member[] {
    const { workers, replicas } = this.#topology
    return (replicas[layer]?.[expert] ?? []).flatMap((index) => this.#members.get(workers[index]) ?? [])
  }

  async #revive(member: Member): Promise<void> {
    for (let waitMs = PING_FIRST_MS; ; waitMs = Math.min(PING_LAST_MS, waitMs * 2)) {
      await delay(waitMs, undefined, { ref: false })
      if (this.#closed || this.#byRunner.get(member.runner) !== member) return
      const answers = await member.runner.ping(PING_LIMIT_MS).then(
        () => true,
        () => false,
      )
      if (answers) return this.#recover(member)
    }
  }

  #recover(member: Member): void {
    if (member.health.state === 'liar') return
    member.health.recover()
    this.#options.onState(member.runner.name, 'live')
    this.#announce()
  }

  /** Two workers of one class computed different values: a third opinion says which is wrong, and that one is never asked again. */
  async #arbitrate(
    runner: Runner,
    by: Runner,
    frame: ExpertFrame,
    { again, first }: { again: TokenRows; first: TokenRows },
  ): Promise<void> {
    const { layer, expert } = frame
    const third = this.#holders(layer, expert[0]).find(
      (member) => member.runner !== runner && member.runner !== by && member.health.state === 'live',
    )
    const signal = AbortSignal.timeout(OPINION_LIMIT_MS)
    const opinion = third
      ? third.runner.send(frame, { deadlineMs: OPINION_LIMIT_MS, signal }).reply
      : this.#options.referee(frame)
    const truth = await opinion.catch(() => null)
    if (!truth) return
    const [agrees, agreed] = [equalRows(truth, again), equalRows(truth, first)]
    // Three different answers, as of a GPU pair and this processor, settle nothing.
    if (agrees !== agreed) this.#condemn(agrees ? by : runner)
  }

  #condemn(runner: Runner): void {
    this.#of(runner).health.condemn()
    this.#counts.lied++
    this.#options.onState(runner.name, 'liar')
  }

  #renew(): void {
    this.#changed = new Promise((resolve) => {
      this.#notify = resolve
    })
  }

  #announce(): void {
    const notify = this.#notify
    this.#renew()
    notify()
  }
}

/** Milliseconds per assignment. */
const msOf = ({ health: { latency } }: Member): number =>
  latency.known ? Math.max(latency.msPerAssignment, UNKNOWN_MS) : UNKNOWN_MS

/** One of several at random, each in proportion to its speed. */
const draw = (members: readonly Member[]): Member => {
  let left = Math.random() * members.reduce((sum, member) => sum + 1 / msOf(member), 0)
  for (const member of members) {
    left -= 1 / msOf(member)
    if (left < 0) return member
  }
  return members[0]
}
