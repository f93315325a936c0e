import { Code, type MeshError } from '../../shared/errors.ts'
import { rank } from './fair.ts'
import type { Attempt, Journal, Outcome, Submission } from './journal/journal.ts'
import { isEnd } from './journal/journal.ts'
import { watchStrays } from './journal/sweep.ts'
import type { Job, Queue, Verdict } from './queue.ts'
import type { Engine, EngineEvent, GenerationRequest } from './sequence.ts'

/** Attempts in a row that may end without a new token; a request that outlasts them takes gateways down with it. */
const FRUITLESS_MAX = 3
const SPEED_INTERVAL_MS = 1_000
/** Weight of the latest second in the speed told. */
const SPEED_SHARE = 0.3

/** An API request to be accepted as a whole. */
export type Order = Omit<Submission, 'entries' | 'deadlineMs'> & {
  requests: readonly GenerationRequest[]
  /** Unix ms after which nobody waits for it; null: never. */
  deadlineAt: number | null
}

/** The way into whichever engine has room, for requests with a client and without. */
export type Intake = Pick<Journal, 'find' | 'follow' | 'attach' | 'leave' | 'waiting' | 'turnAway'> & {
  /**
   * Resolves once the request is stored: from here on it is finished whatever becomes of this process. Resolves with another
   * request's record where its key joins that one. @throws MeshError as Journal.accept and Queue.add do.
   */
  submit(order: Order): Promise<{ joined: string | null }>
  /**
   * Queues those of a joined request's sequences that were accepted and are in no queue, because their gateway died between the two.
   * @throws MeshError UNAVAILABLE.
   */
  requeue(order: Pick<Order, 'requests' | 'priority' | 'deadlineAt'>): Promise<void>
  /** Ends sequences wherever they are; who follows them hears `error`. Unknown ids are ignored. */
  end(ids: readonly string[], error: MeshError): Promise<void>
  /** How many sequences go before this one; null when it does not wait. */
  position(id: string): Promise<number | null>
  /** Takes no more from the queue and gives back what runs. */
  close(): Promise<void>
}

export type IntakeParts = {
  engine: Engine
  queue: Queue
  journal: Journal
  /** Sequences that may be with the engine at a time. */
  room: number
  onError(error: unknown): void
}

const costOf = ({ source, prompt, maxTokens, search }: GenerationRequest): number =>
  source.length + (search?.beams ?? 1) * (prompt.length + maxTokens)

/** Puts an engine behind a queue. */
export const openIntake = (parts: IntakeParts): Intake => {
  const { queue, journal } = parts
  const producer = new Producer(parts)
  const unwatch = watchStrays(journal, queue, parts.onError)
  queue.serve(parts.room, producer.run)
  const end = async (ids: readonly string[], error: MeshError): Promise<void> => {
    await journal.end(ids, error)
    await queue.remove(ids)
  }
  return {
    async submit({ requests, deadlineAt, ...order }) {
      const entries = requests.map((request) => ({ id: request.id, cost: costOf(request) }))
      const deadlineMs = deadlineAt === null ? null : Math.max(0, deadlineAt - Date.now())
      const accepted = await journal.accept({ ...order, entries, deadlineMs })
      if (accepted.joined) return { joined: accepted.record }
      try {
        await queue.add(requests.map((request, at) => ({ request, deadlineAt, rank: accepted.ranks[at] })))
      } catch (error) {
        const ids = entries.map(({ id }) => id)
        void end(ids, error as MeshError)
        if (order.attached) journal.leave(order.id, 0)
        throw error
      }
      return { joined: null }
    },
    async requeue({ requests, priority, deadlineAt }) {
      const waiting = new Set(await journal.waitingIds())
      const left = requests.filter(({ id }) => waiting.has(id))
      // They have waited longer than anybody. A job that is there by now stays as it is.
      await queue.add(left.map((request) => ({ request, deadlineAt, rank: rank(priority, 0) })))
    },
    find: (request) => journal.find(request),
    follow: (id, onEvent) => journal.follow(id, onEvent),
    attach: (request) => journal.attach(request),
    leave: (request, graceSeconds) => journal.leave(request, graceSeconds),
    waiting: () => journal.waiting(),
    turnAway: (tenant) => journal.turnAway(tenant),
    end,
    position: (id) => queue.position(id),
    async close() {
      unwatch()
      const given = queue.close()
      producer.close()
      await given
      await journal.close()
    },
  }
}

/** An attempt of this process: `stop` ends it early, `over` settles when it has ended. */
type Live = {
  stop(verdict: Verdict): void
  readonly stopped: Promise<Verdict>
  readonly over: Promise<void>
  end(): void
}

const openLive = (): Live => {
  let [stop, end] = [(_verdict: Verdict): void => {}, (): void => {}]
  const stopped = new Promise<Verdict>((resolve) => {
    stop = resolve
  })
  const over = new Promise<void>((resolve) => {
    end = resolve
  })
  return { stop, stopped, over, end }
}

/** Runs jobs on the engine and writes what comes of them. */
class Producer {
  readonly #engine: Engine
  readonly #journal: Journal
  readonly #onError: (error: unknown) => void
  readonly #live = new Map<string, Live>()
  readonly #speed: ReturnType<typeof openSpeed>

  constructor({ engine, journal, onError }: IntakeParts) {
    this.#engine = engine
    this.#journal = journal
    this.#onError = onError
    this.#speed = openSpeed(journal, () => this.#live.size > 0)
    journal.onEnded((id) => this.#live.get(id)?.stop('done'))
  }

  readonly run = async (job: Job): Promise<Verdict> => {
    const { id } = job.request
    const self = openLive()
    // The queue took the job for stalled and gave it to this process again: the earlier attempt ends.
    const earlier = this.#live.get(id)
    earlier?.stop('done')
    if (earlier) void this.#journal.release(id)
    this.#live.set(id, self)
    const verdict = await this.#attempt(job, self).catch((error): Verdict => {
      this.#onError(error)
      return 'again'
    })
    const newer = this.#live.get(id)
    if (newer === self) {
      this.#journal.stop(id)
      this.#live.delete(id)
    }
    self.end()
    // Ending before the attempt that took over would make the queue forget that one's lock.
    if (newer && newer !== self) await newer.over
    return verdict
  }

  close(): void {
    this.#speed.close()
    for (const { stop } of this.#live.values()) stop('again')
  }

  async #attempt({ request, deadlineAt }: Job, self: Live): Promise<Verdict> {
    const { id } = request
    const journal = this.#journal
    const begun = await journal.begin(id)
    if (!begun) return 'done'
    const fail = async (code: number, message: string): Promise<Verdict> =>
      verdictOf(await journal.append(id, begun.number, [{ kind: 'failed', id, code, message }]))
    if (deadlineAt !== null && Date.now() > deadlineAt)
      return fail(Code.DEADLINE_EXCEEDED, 'The deadline passed before this request could begin.')
    if (begun.fruitless > FRUITLESS_MAX)
      return fail(
        Code.INTERNAL,
        `${FRUITLESS_MAX} gateways in a row ended while they ran request ${id}, before a token came of it: it is given up.`,
      )
    const verdict = await this.#generate(request, begun, self)
    if (verdict === 'again') await journal.release(id)
    return verdict
  }

  #generate(request: GenerationRequest, { number, tokens }: Attempt, { stopped }: Live): Promise<Verdict> {
    const { id } = request
    const engineId = `${id}~${number}`
    let open = true
    const cancel = (): void => {
      open = false
      this.#engine.cancel(engineId)
    }
    const finished = new Promise<Verdict>((resolve) => {
      const hear = async (event: EngineEvent): Promise<void> => {
        // What was cancelled may still say that it ended.
        if (!open) return
        this.#speed.count(event, request)
        const outcome = await this.#journal.append(id, number, [{ ...event, id }])
        if (outcome !== 'written') cancel()
        if (outcome === 'stale') void this.#journal.release(id)
        if (outcome !== 'written' || isEnd(event)) resolve(verdictOf(outcome))
      }
      // Once there is output, the prompt's log-probabilities are written.
      const promptLogprobs = request.promptLogprobs && tokens.length === 0
      const resumed = { ...request, id: engineId, resume: tokens, promptLogprobs }
      this.#engine.submit(resumed, (event) => void hear(event))
    })
    const cancelled = stopped.then((verdict) => {
      cancel()
      return verdict
    })
    return Promise.race([finished, cancelled])
  }
}

const verdictOf = (outcome: Outcome): Verdict => (outcome === 'overflow' ? 'again' : 'done')

/** Measures what is generated, prompts included, over the seconds in which there was work throughout. */
const openSpeed = (journal: Journal, busy: () => boolean) => {
  let tokens = 0
  let wasBusy = false
  let speed: number | null = null
  const timer = setInterval(() => {
    const rate = (tokens * 1000) / SPEED_INTERVAL_MS
    tokens = 0
    if (wasBusy && busy() && rate > 0) {
      speed = speed === null ? rate : speed + SPEED_SHARE * (rate - speed)
      journal.reportSpeed(speed)
    }
    wasBusy = busy()
  }, SPEED_INTERVAL_MS).unref()
  return {
    count(event: EngineEvent, { source, prompt }: GenerationRequest): void {
      if (event.kind === 'started') tokens += source.length + prompt.length - event.cachedTokens
      if (event.kind === 'token') tokens++
    },
    close: () => clearInterval(timer),
  }
}
