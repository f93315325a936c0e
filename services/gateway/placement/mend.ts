import type { Logger } from 'pino'
import { Code, MeshError } from '../../../shared/errors.ts'
import { type Expert, homeOf } from './locate.ts'
import type { Member } from './member.ts'

/** Experts of one Load: few enough that a lost worker's share is dealt anew soon, and that what is ready serves soon. */
const LOAD_EXPERTS_MAX = 64
/** Waits after a load that failed: doubled from the first to the last. */
const RETRY_FIRST_MS = 1_000
const RETRY_LAST_MS = 30_000

/** What one worker is to do. */
export type Errand = { unload: readonly Expert[]; load: readonly Expert[] }

type Trouble = { waitMs: number; over: boolean; timer: NodeJS.Timeout }

type MenderOptions = {
  model: string
  /** Longest wait for one Load. */
  limitMs: number
  log: Logger
  /** Resolves when nothing is sent to the experts that are to be dropped; false: they are needed after all. */
  clear(experts: readonly Expert[]): Promise<boolean>
  /** A worker has done its part, or is ready to be asked again. */
  onDone(): void
  onFailed(error: MeshError): void
}

/** Has workers load and drop experts: one errand at a time each, all of them at the same time. */
export class Mender {
  readonly #options: MenderOptions
  readonly #underWay = new Map<Member, Errand>()
  readonly #troubles = new Map<Member, Trouble>()
  /** Told when an errand is over. */
  readonly #waiting: (() => void)[] = []
  #closed = false

  constructor(options: MenderOptions) {
    this.#options = options
  }

  /** Experts on their way into a worker. */
  loading(member: Member): readonly Expert[] {
    return this.#underWay.get(member)?.load ?? []
  }

  /** Experts on their way out of a worker: nothing may be sent to them. */
  dropping(member: Member): readonly Expert[] {
    return this.#underWay.get(member)?.unload ?? []
  }

  /** Experts on their way into any worker. */
  get loads(): number {
    return [...this.#underWay.values()].reduce((sum, { load }) => sum + load.length, 0)
  }

  /** A load failed there a moment ago. */
  troubled(member: Member): boolean {
    return this.#troubles.get(member)?.over === false
  }

  /** Begins a part of it; nothing while the worker is busy or troubled. onDone asks for the rest. */
  send(member: Member, { unload, load }: Errand): void {
    if (this.#closed || this.#underWay.has(member) || this.troubled(member)) return
    const errand = { unload: unload.slice(0, LOAD_EXPERTS_MAX), load: load.slice(0, LOAD_EXPERTS_MAX) }
    if (errand.unload.length + errand.load.length === 0) return
    this.#underWay.set(member, errand)
    void this.#run(member, errand)
  }

  /** Carries out all of an errand, part after part and after what is under way. @throws MeshError when a part fails. */
  async carry(member: Member, errand: Errand): Promise<void> {
    const total = Math.max(errand.unload.length, errand.load.length)
    for (let begin = 0; begin < total; begin += LOAD_EXPERTS_MAX) {
      while (this.#underWay.has(member)) await new Promise<void>((resolve) => this.#waiting.push(resolve))
      const end = begin + LOAD_EXPERTS_MAX
      this.send(member, { unload: errand.unload.slice(begin, end), load: errand.load.slice(begin, end) })
      while (this.#underWay.has(member)) await new Promise<void>((resolve) => this.#waiting.push(resolve))
      if (this.#closed || this.troubled(member))
        throw new MeshError(Code.UNAVAILABLE, `worker ${member.address} could not be given its experts`)
    }
  }

  close(): void {
    this.#closed = true
    this.#tell()
    for (const { timer } of this.#troubles.values()) clearTimeout(timer)
  }

  async #run(member: Member, errand: Errand): Promise<void> {
    try {
      await this.#carryOut(member, errand)
      this.#troubles.delete(member)
    } catch (thrown) {
      if (!this.#closed) this.#fail(member, MeshError.from(thrown))
    }
    // Its memory is known again before anything more is decided about it.
    await member.look()
    this.#underWay.delete(member)
    this.#tell()
    if (!this.#closed) this.#options.onDone()
  }

  #tell(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  async #carryOut(member: Member, { unload, load }: Errand): Promise<void> {
    const { model, limitMs, log } = this.#options
    const begun = performance.now()
    if (unload.length > 0) {
      if (!(await this.#options.clear(unload))) return
      await member.control.unload(model, homeOf(unload), limitMs)
    }
    if (load.length === 0) return
    const { loaded } = await member.control.load(model, homeOf(load), limitMs)
    const tookMs = Math.round(performance.now() - begun)
    log.info({ worker: member.address, loaded, unloaded: unload.length, tookMs }, 'experts loaded')
  }

  #fail(member: Member, error: MeshError): void {
    const waitMs = Math.min(RETRY_LAST_MS, (this.#troubles.get(member)?.waitMs ?? RETRY_FIRST_MS / 2) * 2)
    const timer = setTimeout(() => {
      trouble.over = true
      this.#options.onDone()
    }, waitMs)
    const trouble: Trouble = { waitMs, over: false, timer }
    this.#troubles.set(member, trouble)
    this.#options.log.warn({ worker: member.address, waitMs }, `experts could not be loaded: ${error.message}`)
    this.#options.onFailed(error)
  }
}
