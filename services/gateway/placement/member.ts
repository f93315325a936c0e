import { MeshError } from '../../../shared/errors.ts'
import { expertsOf, type Home } from './locate.ts'
import { controlWorker, type Holdings, type WorkerControl } from './workers.ts'

/** A worker that says nothing for this long, three of its beats, is asked. */
const SILENCE_LIMIT_MS = 3_000
/** Then it is lost when it does not answer in this time. */
const LOOK_LIMIT_MS = 1_000
/** Longest wait for the first word of a worker that is dialled. */
const DIAL_LIMIT_MS = 5_000
/** Waits between attempts to reach a worker: doubled from the first to the last. */
const REDIAL_FIRST_MS = 100
const REDIAL_LAST_MS = 2_000

/**
 * dialled: no answer yet. live: used. draining: used until others hold what it holds. refused: reached, and of no use here.
 * gone: lost or let go. The last two are dialled again for as long as the member is open.
 */
export type MemberState = 'dialled' | 'live' | 'draining' | 'refused' | 'gone'

export type MemberOptions = {
  address: string
  token: string | null
  model: string
  /** Throws why a worker that has just been reached cannot be used. */
  admit(address: string, holdings: Holdings): void
  /** Its state, or what it holds, is another. */
  onChange(member: Member): void
}

/** One worker's life in this gateway: dialled, watched, lost, dialled again. */
export class Member {
  readonly address: string
  readonly control: WorkerControl
  #state: MemberState = 'dialled'
  #reason = ''
  #holdings: Holdings | null = null
  readonly #options: MemberOptions
  #endWatch = (): void => {}
  /** Counts the watches, so that an answer to a question of an earlier one is known as such. */
  #watches = 0
  #timer: NodeJS.Timeout | undefined
  #redialMs = REDIAL_FIRST_MS
  #closed = false

  constructor(options: MemberOptions) {
    this.#options = options
    this.address = options.address
    this.control = controlWorker(options)
    this.#dial()
  }

  get state(): MemberState {
    return this.#state
  }

  /** Why it is refused or gone. */
  get reason(): string {
    return this.#reason
  }

  /** Its last word; null unless it is live or draining. */
  get holdings(): Holdings | null {
    return this.#holdings
  }

  /** Experts of this gateway's model that it holds. */
  get home(): Home {
    return this.#holdings?.models.get(this.#options.model) ?? []
  }

  /** Experts of this gateway's model on their way into it, whoever asked. */
  get loading(): Home {
    return this.#holdings?.loading.get(this.#options.model) ?? []
  }

  /** Asks at once: settles when its holdings are fresh, or it is known as lost. */
  async look(): Promise<void> {
    if (!this.#holdings) return
    const watch = this.#watches
    try {
      const holdings = await this.control.holdings(LOOK_LIMIT_MS)
      if (watch === this.#watches) this.#hear(holdings)
    } catch (error) {
      if (watch === this.#watches) this.#lose(MeshError.from(error).message)
    }
  }

  /** Lets a worker that drains go: it may end now. Another process may come to its address. */
  release(): void {
    this.#leave('gone', 'it was let go')
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#endWatch()
    this.#watches += 1
    this.control.close()
  }

  #after(limitMs: number, act: () => void): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(act, limitMs)
  }

  #dial(): void {
    this.#after(DIAL_LIMIT_MS, () => this.#lose(`worker ${this.address} does not answer`))
    this.#endWatch = this.control.watch(
      (holdings) => this.#hear(holdings),
      (error) => this.#lose(error.message),
    )
  }

  #hear(holdings: Holdings): void {
    if (this.#closed) return
    if (!this.#holdings) {
      try {
        this.#options.admit(this.address, holdings)
      } catch (error) {
        this.#leave('refused', MeshError.from(error).message)
        return
      }
    }
    this.#after(SILENCE_LIMIT_MS, () => void this.look())
    this.#redialMs = REDIAL_FIRST_MS
    const before = { state: this.#state, home: this.home, loading: this.loading }
    this.#holdings = holdings
    this.#state = holdings.draining ? 'draining' : 'live'
    this.#reason = ''
    const known = same(before.home, this.home) && same(before.loading, this.loading)
    if (before.state !== this.#state || !known) this.#options.onChange(this)
  }

  #lose(reason: string): void {
    if (!this.#closed) this.#leave('gone', reason)
  }

  #leave(state: 'refused' | 'gone', reason: string): void {
    const known = this.#state === state && this.#reason === reason
    this.#endWatch()
    this.#watches += 1
    this.#holdings = null
    // One that never answered is not gone.
    this.#state = this.#state === 'dialled' && state === 'gone' ? 'dialled' : state
    this.#reason = reason
    this.#after(this.#redialMs, () => this.#dial())
    this.#redialMs = Math.min(REDIAL_LAST_MS, this.#redialMs * 2)
    if (!known) this.#options.onChange(this)
  }
}

/** Both ascending, as workers tell them. */
const same = (a: Home, b: Home): boolean => {
  const [left, right] = [expertsOf(a), expertsOf(b)]
  return (
    left.length === right.length &&
    left.every(({ layer, expert }, i) => layer === right[i].layer && expert === right[i].expert)
  )
}
