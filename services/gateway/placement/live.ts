import type { Logger } from 'pino'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { GatewayConfig } from '../config.ts'
import type { Admit } from './admit.ts'
import type { Fleet } from './fleet.ts'
import type { State } from './health.ts'
import {
  type Expert,
  type ExpertSpace,
  except,
  expertsOf,
  homeOf,
  missing,
  nextTopology,
  type Topology,
} from './locate.ts'
import type { Member } from './member.ts'
import { Mender } from './mend.ts'
import { type Balanceable, type Moves, openRebalance, type Rebalance } from './rebalance.ts'
import { repair, type Standing } from './repair.ts'
import { openRoster, type Roster, type Source } from './roster.ts'
import { wishesOf } from './rules.ts'
import { openStandIn, type StandIn } from './standin.ts'
import type { Holdings } from './workers.ts'

/**
 * Experts of this model that a worker has memory for, those it holds or is loading among them; `urgent`: at the cost of models that no
 * gateway needs.
 */
export const slotsOf = (
  { memoryLimitBytes, heldBytes, idleBytes, models, loading }: Holdings,
  { model, expertBytes, urgent }: { model: string; expertBytes: number; urgent: boolean },
): number => {
  const own = [models, loading].flatMap((homes) => expertsOf(homes.get(model) ?? []))
  const freeBytes = memoryLimitBytes - heldBytes + (urgent ? idleBytes : 0)
  return Math.max(0, Math.floor(freeBytes / expertBytes)) + own.length
}

export type LiveOptions = GatewayConfig & {
  space: ExpertSpace
  expertBytes: number
  model: string
  log: Logger
  admit: Admit
}

/** An ejected worker that is not back by then is not counted on: what it holds is to be held elsewhere too. */
const EJECTED_GRACE_MS = 2_000

type Verdict = { state: State; believed: boolean; timer: NodeJS.Timeout | undefined }

/** Watches the members, publishes what they hold, and has them load what is missing, whenever any of it changes. */
export class LiveFleet implements Fleet {
  /** Resolves when every expert is held and nothing is left to load; rejects when a load fails before. */
  readonly settled: Promise<void>
  readonly rebalance: Rebalance
  readonly #options: LiveOptions
  readonly #roster: Roster
  readonly #mender: Mender
  readonly #standIn: StandIn
  #topology: Topology = { version: 0, workers: [], replicas: [] }
  #missing: readonly Expert[]
  #takers: ((topology: Topology) => void | Promise<void>)[] = []
  /** Settles when the last topology is in force. */
  #inForce: Promise<unknown> = Promise.resolve()
  #wasCovered = false
  readonly #slots = new WeakMap<Member, number>()
  /** By address: what the engine says of workers that are reached. */
  readonly #verdicts = new Map<string, Verdict>()
  #resting = false
  #onSettled = (): void => {}

  constructor(options: LiveOptions, sources: readonly Source[]) {
    const { model, token, log, startTimeoutMs: limitMs, admit } = options
    this.#options = options
    this.#missing = missing(options.space, [])
    let onFailed = (_: MeshError): void => {}
    this.settled = new Promise((resolve, reject) => {
      this.#onSettled = resolve
      // Another gateway may have taken the memory meanwhile: that is decided anew.
      onFailed = (error) => error.code === Code.RESOURCE_EXHAUSTED || reject(error)
    })
    // Only a start with named workers alone waits for it.
    this.settled.catch(() => {})
    this.rebalance = openRebalance({
      ...options,
      rules: options.placementRules,
      workers: () => this.#balanceable(),
      move: (round) => this.#move(round),
    })
    const update = (): void => this.#update()
    const clear = (experts: readonly Expert[]): Promise<boolean> => this.#clear(experts)
    this.#mender = new Mender({ model, limitMs, log, clear, onDone: update, onFailed })
    const member = {
      token,
      model,
      admit: (address: string, holdings: Holdings) => admit([{ address, holdings }]),
    }
    this.#standIn = openStandIn(options, { ...member, onChange: update })
    this.#roster = openRoster(sources, { ...member, log, onChange: update })
    this.#update()
  }

  get topology(): Topology {
    return this.#topology
  }

  onTopology(take: (topology: Topology) => void | Promise<void>): void {
    this.#takers.push(take)
    this.#inForce = Promise.allSettled([this.#inForce, take(this.#topology)])
  }

  // Handed on by itself.
  readonly missing = (): readonly Expert[] => this.#missing

  members(): readonly Member[] {
    const { member } = this.#standIn
    return member ? [...this.#roster.members(), member] : this.#roster.members()
  }

  loads(): number {
    return this.#mender.loads
  }

  rest(): void {
    this.#resting = true
    this.#mender.close()
    this.#roster.closeSources()
  }

  async close(): Promise<void> {
    this.#roster.close()
    await this.#standIn.close()
  }

  judge(address: string, state: State): void {
    clearTimeout(this.#verdicts.get(address)?.timer)
    this.#verdicts.delete(address)
    if (state === 'lost')
      void this.members()
        .find((member) => member.address === address)
        ?.look()
    else if (state !== 'live') {
      const verdict: Verdict = { state, believed: state === 'liar', timer: undefined }
      verdict.timer = setTimeout(() => {
        verdict.believed = true
        this.#update()
      }, EJECTED_GRACE_MS).unref()
      this.#verdicts.set(address, verdict)
    }
    this.#update()
  }

  /** Live workers to balance over; null while experts are missing or on their way. */
  #balanceable(): Balanceable[] | null {
    const { model, expertBytes } = this.#options
    if (this.#missing.length > 0 || this.#mender.loads > 0) return null
    return this.#reached().flatMap((member) => {
      const { address, holdings, home } = member
      if (!holdings || this.#leaving(member) || this.#believed(member)) return []
      const memoryBytes = slotsOf(holdings, { model, expertBytes, urgent: false }) * expertBytes
      return [{ address, memoryBytes, home, rowsPerSecond: holdings.rowsPerSecond }]
    })
  }

  async #move(round: Moves): Promise<void> {
    const carry = (part: 'loads' | 'unloads') =>
      Promise.all(
        round.map(async ({ address, ...moves }) => {
          const member = this.#roster.get(address)
          if (!member?.holdings) throw new MeshError(Code.UNAVAILABLE, `worker ${address} has gone`)
          const experts = expertsOf(moves[part])
          await this.#mender.carry(
            member,
            part === 'loads' ? { unload: [], load: experts } : { unload: experts, load: [] },
          )
        }),
      )
    await carry('loads')
    await carry('unloads')
  }

  /** Staying first, then the stand-in, then those that drain: what an earlier one holds, a later leaving one need not. */
  #reached(): Member[] {
    const rank = (member: Member): number => (member === this.#standIn.member ? 1 : member.state === 'draining' ? 2 : 0)
    return this.members()
      .filter((member) => member.holdings !== null && this.#believed(member) !== 'liar')
      .sort((a, b) => rank(a) - rank(b))
  }

  /** What the engine found, once that is more than a moment's weakness. */
  #believed({ address }: Member): State | null {
    const verdict = this.#verdicts.get(address)
    return verdict?.believed ? verdict.state : null
  }

  #leaving(member: Member): boolean {
    return member.state === 'draining' || member === this.#standIn.member
  }

  #update(): void {
    if (this.#resting) return
    // Whoever comes back to an address of a worker that went is another.
    for (const { address, state } of this.members()) if (state === 'gone') this.#verdicts.delete(address)
    const reached = this.#reached()
    this.#publish(reached)
    // Those named together are dealt to together: the first to answer is not given everything.
    const awaited = this.#roster.members().some(({ state, reason }) => state === 'dialled' && reason === '')
    if (awaited && !this.#wasCovered) return
    const forbids = this.#forbidden(reached)
    const plan = repair(
      this.#options.space,
      reached.map((member, i) => ({
        ...this.#standing(member),
        ...(forbids && { forbids: (each: Expert) => forbids(each, i) }),
      })),
      this.#options.replicas,
    )
    for (const [i, member] of reached.entries())
      if (!this.#leaving(member)) this.#mender.send(member, { unload: plan.unload[i], load: plan.load[i] })
    this.#letGo(reached)
    if (this.#wasCovered) this.#coverHomeless(plan.homeless)
    if (this.#missing.length === 0 && plan.load.every(({ length }) => length === 0)) this.#onSettled()
  }

  /** Whether rules forbid an expert on a worker; null without rules. */
  #forbidden(reached: readonly Member[]): ((expert: Expert, worker: number) => boolean) | null {
    const { placementRules: rules } = this.#options
    if (rules.length === 0) return null
    const wishOf = wishesOf(
      rules,
      reached.map(({ address }) => address),
    )
    return ({ layer, expert }, worker) => wishOf(layer, expert).forbidden.has(worker)
  }

  #standing(member: Member): Standing {
    const { model, expertBytes } = this.#options
    const loading = this.#mender.loading(member)
    // While it loads, its figures count some of these experts and not others: those from before hold.
    const urgent = this.#missing.length > 0
    if (loading.length === 0 && member.holdings)
      this.#slots.set(member, slotsOf(member.holdings, { model, expertBytes, urgent }))
    const slots = this.#mender.troubled(member) ? 0 : (this.#slots.get(member) ?? 0)
    const holds = homeOf([...expertsOf(member.home), ...expertsOf(member.loading), ...loading])
    return { holds, slots, leaving: this.#leaving(member) || this.#believed(member) !== null }
  }

  #publish(reached: readonly Member[]): void {
    const holders = reached.map((member) => ({
      address: member.address,
      holds: homeOf(except(expertsOf(member.home), this.#mender.dropping(member))),
      leaving: this.#leaving(member),
    }))
    this.#missing = missing(
      this.#options.space,
      holders.map(({ holds }) => holds),
    )
    const topology = nextTopology(this.#topology, holders)
    if (topology !== this.#topology) {
      this.#topology = topology
      this.#inForce = Promise.allSettled([this.#inForce, ...this.#takers.map((take) => take(topology))])
    }
    if (this.#missing.length === 0) this.#wasCovered = true
  }

  /** Publishes a topology without what is being dropped; false when somebody was lost meanwhile and it is needed again. */
  async #clear(experts: readonly Expert[]): Promise<boolean> {
    this.#publish(this.#reached())
    await this.#inForce
    return experts.every(({ layer, expert }) => (this.#topology.replicas[layer]?.[expert] ?? []).length > 0)
  }

  /** Workers that drain may end once nothing is sent to them any more. */
  #letGo(reached: readonly Member[]): void {
    const gone = reached.filter(
      (member) => member.state === 'draining' && !this.#topology.workers.includes(member.address),
    )
    if (gone.length === 0) return
    void this.#inForce.then(() => {
      for (const member of gone) if (member.state === 'draining') member.release()
    })
  }

  #coverHomeless(homeless: readonly Expert[]): void {
    const { member } = this.#standIn
    const unused = (): boolean => !member || !this.#topology.workers.includes(member.address)
    if (homeless.length === 0) {
      if (member && unused() && this.#mender.loading(member).length === 0)
        void this.#inForce.then(() => unused() && this.#standIn.dismiss(member))
    } else if (!member) {
      this.#standIn.call(homeless.length * this.#options.expertBytes)
    } else if (member.holdings) {
      this.#mender.send(member, { unload: [], load: except(homeless, expertsOf(member.home)) })
    }
  }
}
