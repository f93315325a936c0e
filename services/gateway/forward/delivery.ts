import { setTimeout as delay } from 'node:timers/promises'
import { Code, MeshError } from '../../../shared/errors.ts'
import { rowBytes, type TokenRows } from '../../../shared/model/rows.ts'
import type { Attended } from './attend.ts'
import type { Arrived, DispatchLimits, Handle, Reply, Runner, Runners } from './dispatch.ts'
import { examine } from './examine.ts'
import { answered, byExpert, type Lot, makeFrame, NOBODY, spread } from './lot.ts'
import { DROPPED, type Routes } from './route.ts'

/** Waits between looks for a runner of experts that nobody offers: doubled from the first to the last. */
const LOOK_FIRST_MS = 50
const LOOK_LAST_MS = 1_000

export type Job = {
  runners: Runners
  layer: number
  hidden: number
  attended: Pick<Attended, 'rows' | 'scale'>
  routes: Routes
  limits: DispatchLimits
  signal: AbortSignal
}

/**
 * Brings one layer's assignments to runners until each has its row. A frame that fails is sent to another holder, one that is
 * overdue too, and the first valid reply wins: replies of one numeric class are equal, so it does not matter whose.
 */
export class Delivery implements Handle {
  readonly rows: Promise<Arrived>
  requestBytes = 0
  frames = 0
  readonly #job: Job
  readonly #lots = new Set<Lot>()
  readonly #sources: TokenRows[] = []
  readonly #by: Runner[] = []
  readonly #source: Uint32Array
  readonly #offset: Uint32Array
  #remaining: number
  /** Runners that failed here; forgiven, as those in doubt are, once there is nobody else. */
  readonly #avoid = new Set<Runner>()
  readonly #homeless = new Set<number>()
  #looking = false
  /** Why the last runner failed, for the error that names what is missing. */
  #reason: MeshError | null = null
  /** Assignments once answered with values that are not finite, and by whom. */
  readonly #doubtful = new Map<number, Runner>()
  #ended = false
  /** Ends the wait of #look. */
  #pause: AbortController | null = null
  readonly #cancel = (): void => this.#fail(new MeshError(Code.CANCELLED, 'the step was called off'))
  #resolve!: (arrived: Arrived) => void
  #reject!: (error: MeshError) => void
  #computeUs = 0
  readonly #assignmentsMax: number

  constructor(job: Job) {
    const { routes, limits, hidden, attended } = job
    this.#job = job
    this.#remaining = routes.ids.reduce((count, id) => (id === DROPPED ? count : count + 1), 0)
    this.#source = new Uint32Array(routes.ids.length).fill(NOBODY)
    this.#offset = new Uint32Array(routes.ids.length)
    const width = attended.scale ? hidden + 4 : hidden * 4
    this.#assignmentsMax = Math.max(1, Math.floor(limits.frameBytesMax / (width + 8)))
    this.rows = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // It may fail while frames are still being written; whoever awaits the rows hears of it.
    this.rows.catch(() => {})
  }

  /** Sends everything once; resolves when the last byte has left. */
  async begin(): Promise<void> {
    const { signal } = this.#job
    if (signal.aborted) return this.#cancel()
    signal.addEventListener('abort', this.#cancel, { once: true })
    const written = this.#send(byExpert(this.#job.routes))
    this.frames = this.#lots.size
    if (this.#remaining === 0) this.#finish()
    await Promise.all(written)
  }

  /** Who failed here, and whose values are doubted: none of those is a second opinion while there is another. */
  #distrusted(): Set<Runner> {
    return new Set([...this.#avoid, ...this.#doubtful.values()])
  }

  /** Sends assignments, ascending by expert, to whoever holds them; those that nobody takes wait. */
  #send(assignments: readonly number[] | Uint32Array): Promise<void>[] {
    const { runners, layer, routes } = this.#job
    const { lots, homeless } = spread(runners, layer, routes, assignments, { avoid: this.#distrusted() })
    if (homeless.length > 0) {
      for (const assignment of homeless) this.#homeless.add(assignment)
      void this.#look()
    }
    return this.#launch(lots)
  }

  #launch(lots: ReadonlyMap<Runner, readonly number[]>): Promise<void>[] {
    const written: Promise<void>[] = []
    for (const [runner, list] of lots)
      for (let begin = 0; begin < list.length; begin += this.#assignmentsMax)
        written.push(this.#call(runner, list.slice(begin, begin + this.#assignmentsMax)))
    return written
  }

  #call(runner: Runner, assignments: readonly number[]): Promise<void> {
    const { runners, layer, hidden, attended, routes, limits } = this.#job
    const frame = makeFrame(layer, hidden, attended, routes, assignments)
    const abort = new AbortController()
    let release = (): void => {}
    const released = new Promise<void>((resolve) => {
      release = resolve
    })
    const sentMs = performance.now()
    const lot: Lot = {
      runner,
      assignments,
      abort,
      sentMs,
      open: true,
      hedged: false,
      givenUp: false,
      timer: undefined,
      release,
    }
    this.#lots.add(lot)
    runners.sent(runner, assignments.length)
    const { written, reply } = runner.send(frame, { deadlineMs: limits.timeoutMs, signal: abort.signal })
    reply.then(
      (value) => this.#answered(lot, value),
      (error) => this.#failed(lot, error),
    )
    const { overdueMs } = runners.patience(runner, assignments.length)
    if (overdueMs < limits.timeoutMs) lot.timer = setTimeout(() => this.#overdue(lot), overdueMs)
    this.requestBytes += rowBytes(frame) + 8 * assignments.length
    return Promise.race([written, released])
  }

  /** The lot is out no longer. False when it was not any more. */
  #settle(lot: Lot, outcome: Parameters<Runners['settled']>[2]): boolean {
    if (!lot.open) return false
    lot.open = false
    clearTimeout(lot.timer)
    lot.release()
    this.#lots.delete(lot)
    this.#job.runners.settled(lot.runner, lot.assignments.length, outcome)
    return true
  }

  #answered(lot: Lot, reply: Reply): void {
    if (!lot.open) return
    if (!reply.finite && !this.#confirmed(lot)) return
    this.#settle(lot, answered(lot, this.#job.routes, reply))
    for (const assignment of lot.assignments) {
      const doubted = this.#doubtful.get(assignment)
      if (doubted && reply.finite && doubted !== lot.runner) {
        const error = new MeshError(Code.INTERNAL, 'it answered values that are not finite where another’s were')
        this.#job.runners.settled(doubted, 0, { kind: 'failed', error })
        this.#doubtful.clear()
        break
      }
    }
    this.#take(lot, reply)
  }

  /** Puts the rows of a reply in their places, unless others came first. */
  #take(lot: Lot, { rows, rowScale, computeUs }: Reply): void {
    const index = this.#sources.push({ rows, rowScale }) - 1
    this.#by.push(lot.runner)
    this.#computeUs = Math.max(this.#computeUs, computeUs)
    for (const [i, assignment] of lot.assignments.entries()) {
      if (this.#source[assignment] !== NOBODY) continue
      this.#source[assignment] = index
      this.#offset[assignment] = i * this.#job.hidden
      this.#remaining--
    }
    if (this.#remaining === 0) this.#finish()
    else this.#callOffAnswered()
  }

  /** Frames whose assignments all have their rows by now are called off; a hedge that came first shows that they were late. */
  #callOffAnswered(): void {
    for (const lot of this.#lots) if (lot.assignments.every((a) => this.#source[a] !== NOBODY)) this.#callOff(lot)
  }

  #callOff(lot: Lot): void {
    if (this.#settle(lot, { kind: lot.hedged ? 'late' : 'dropped' })) lot.abort.abort()
  }

  /**
   * Not finite: once may be the runner's fault, so the frame goes to another (to the same one where it is alone). Twice is the
   * request's own numbers: the rows are taken, and the next check fails that request alone.
   */
  #confirmed(lot: Lot): boolean {
    if (lot.assignments.some((a) => this.#doubtful.has(a))) return true
    for (const assignment of lot.assignments) this.#doubtful.set(assignment, lot.runner)
    this.#settle(lot, { kind: 'dropped' })
    const { runners, layer, routes } = this.#job
    const outstanding = this.#outstanding(lot)
    const { lots, homeless } = spread(runners, layer, routes, outstanding, { avoid: new Set([lot.runner]) })
    this.#launch(lots)
    if (homeless.length > 0) this.#launch(new Map([[lot.runner, homeless]]))
    return false
  }

  /** Assignments of a lot without a row that no other lot is out for. */
  #outstanding(lot: Lot): number[] {
    const covered = new Set(
      [...this.#lots].flatMap((other) => (other === lot || other.givenUp ? [] : other.assignments)),
    )
    return lot.assignments.filter((a) => this.#source[a] === NOBODY && !covered.has(a))
  }

  #failed(lot: Lot, error: unknown): void {
    if (!this.#settle(lot, { kind: 'failed', error })) return
    this.#reason = MeshError.from(error)
    this.#avoid.add(lot.runner)
    this.#send(this.#outstanding(lot))
  }

  /** Asks others too, as far as there are any and the budget allows; otherwise waits until the runner is given up. */
  #overdue(lot: Lot): void {
    const { runners, layer, routes } = this.#job
    lot.release()
    const outstanding = this.#outstanding(lot)
    const avoid = this.#distrusted().add(lot.runner)
    const { lots, homeless } = spread(runners, layer, routes, outstanding, { avoid })
    if (homeless.length < outstanding.length && runners.mayHedge()) {
      lot.hedged = true
      this.#launch(lots)
    }
    const { overdueMs, stalledMs } = runners.patience(lot.runner, lot.assignments.length)
    lot.timer = setTimeout(() => this.#stalled(lot), Math.max(0, stalledMs - overdueMs))
  }

  /** The runner is given up, though its answer is still welcome. */
  #stalled(lot: Lot): void {
    lot.givenUp = true
    this.#job.runners.settled(lot.runner, 0, { kind: 'stalled' })
    this.#reason = new MeshError(Code.UNAVAILABLE, `worker ${lot.runner.name} does not answer`)
    this.#avoid.add(lot.runner)
    this.#send(this.#outstanding(lot))
  }

  /** Looks again and again for runners of the homeless assignments, until one is found or time is up. */
  async #look(): Promise<void> {
    if (this.#looking) return
    this.#looking = true
    this.#pause = new AbortController()
    const { signal } = this.#pause
    const { runners, routes, limits } = this.#job
    const giveUpAt = performance.now() + limits.timeoutMs
    for (let waitMs = LOOK_FIRST_MS; this.#homeless.size > 0; waitMs = Math.min(LOOK_LAST_MS, waitMs * 2)) {
      const pause = delay(waitMs, undefined, { signal }).catch(() => {})
      await Promise.race([runners.changed(), pause])
      if (this.#ended) return
      if (performance.now() > giveUpAt) return this.#fail(this.#missing())
      this.#avoid.clear()
      this.#doubtful.clear()
      // They came from frames that failed one after the other, and leave together.
      const homeless = byExpert(routes).filter((a) => this.#homeless.has(a) && this.#source[a] === NOBODY)
      this.#homeless.clear()
      this.#send(homeless)
    }
    this.#looking = false
  }

  #missing(): MeshError {
    const { layer, routes, limits } = this.#job
    const [first] = this.#homeless
    const named = `no worker holds (layer ${layer}, expert ${routes.ids[first]})`
    const last = this.#reason ? `; last: ${this.#reason.message}` : ''
    return new MeshError(Code.UNAVAILABLE, `${named}, and none came to within ${limits.timeoutMs} ms${last}`, {
      reason: 'expert_missing',
    })
  }

  #finish(): void {
    const { runners, layer, hidden, attended, routes } = this.#job
    this.#endAll()
    const arrived = { sources: this.#sources, source: this.#source, offset: this.#offset }
    this.#resolve({ ...arrived, names: this.#by.map(({ name }) => name), computeMs: this.#computeUs / 1000 })
    const by = (assignment: number): Runner => this.#by[this.#source[assignment]]
    examine({ runners, layer, hidden, attended, routes, limits: this.#job.limits }, arrived, by)
  }

  #fail(error: MeshError): void {
    if (this.#ended) return
    this.#endAll()
    this.#reject(error)
  }

  #endAll(): void {
    this.#ended = true
    this.#job.signal.removeEventListener('abort', this.#cancel)
    this.#pause?.abort()
    for (const lot of [...this.#lots]) this.#callOff(lot)
  }
}
