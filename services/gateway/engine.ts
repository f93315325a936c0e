import assert from 'node:assert/strict'
import { Code, MeshError } from '../../shared/errors.ts'
import { advance, type BlockCounts, type Limits, type Plan, type Span, schedule, seatsOf } from './batch/schedule.ts'
import type { Batch } from './forward/batch.ts'
import type { KvCache } from './forward/cache.ts'
import { constrain } from './forward/constrain.ts'
import { positionDigest } from './forward/digest.ts'
import { tokenLogprob } from './forward/logprob.ts'
import { sample } from './forward/sample.ts'
import { followSearch, openBeams, restarted } from './forward/search.ts'
import { dropSource, openSource, sourceId, sourceName } from './forward/source.ts'
import { encode, type Forward, step } from './forward/step.ts'
import type { Beam, EngineEvent, GenerationRequest, Sequence, TokenEvent } from './sequence.ts'
import { finishReason } from './stream/finish.ts'

type Emit = (events: EngineEvent[]) => void

/** The engine of one model: requests come in by submit, what becomes of them goes out by emit. Events only enqueue; the loop takes them between steps. */
export class RunningEngine {
  readonly #forward: Forward
  readonly #limits: Limits
  readonly #emit: Emit
  #waiting: Sequence[] = []
  #running: Sequence[] = []
  readonly #cancelled = new Set<string>()
  /** A preempted sequence starts again, but is announced once. */
  readonly #announced = new WeakSet<Sequence>()
  #current: { sequences: readonly Sequence[]; abort: AbortController } | null = null
  #arrivals = 0
  #preempted = 0
  #stepMs = 0
  #stopping = false
  #wake = (): void => {}
  readonly #done: Promise<void>

  constructor(forward: Forward, limits: Limits, emit: Emit) {
    this.#forward = forward
    this.#limits = limits
    this.#emit = emit
    this.#done = this.#loop()
  }

  /** The map: batch → encode what was admitted → step → settle and emit. */
  async #loop(): Promise<void> {
    while (!this.#stopping) {
      this.#dropCancelled()
      const plan = schedule({
        waiting: this.#waiting,
        running: this.#running,
        limits: this.#limits,
        cache: blockCounts(this.#forward.cache),
      })
      const spans = this.#begin(plan)
      const begun = performance.now()
      const unread = plan.admit.filter(({ request }) => request.source.length > 0)
      if (unread.length > 0) await this.#encode(unread)
      // Those whose source failed have left.
      const ready = spans.filter(({ sequence }) => sequence.status === 'running')
      if (ready.length > 0) await this.#step(ready)
      this.#stepMs += performance.now() - begun
      if (spans.length === 0) await this.#arrival()
    }
  }

  async #encode(sequences: readonly Sequence[]): Promise<void> {
    await this.#run(sequences, async (signal) => {
      const { failed } = await encode(this.#forward, sequences, signal)
      for (const [sequence, error] of failed) this.#fail(sequence, error)
    })
  }

  async #step(spans: readonly Span[]): Promise<void> {
    const sequences = spans.map(({ sequence }) => sequence)
    await this.#run(sequences, async (signal) => {
      const { batch, logits } = await step(this.#forward, spans, wantedRows, signal)
      this.#emit(this.#settle(batch, logits))
    })
  }

  async #run(sequences: readonly Sequence[], action: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const abort = new AbortController()
    this.#current = { sequences, abort }
    try {
      await action(abort.signal)
    } catch (error) {
      for (const sequence of sequences) this.#fail(sequence, MeshError.from(error))
    }
    this.#current = null
  }

  submit(request: GenerationRequest): void {
    const arrival = this.#arrivals++
    this.#waiting.push({ request, ...openBeams(request), status: 'waiting', arrival })
    this.#wake()
  }

  /** The sequence leaves after the step under way; no event follows. An unknown id is ignored. */
  cancel(id: string): void {
    this.#cancelled.add(id)
    // Nobody waits for this step any more: its calls to the workers are called off too.
    if (this.#current?.sequences.every(({ request }) => this.#cancelled.has(request.id))) this.#current.abort.abort()
    this.#wake()
  }

  /** Ends the loop after the step under way. */
  async stop(): Promise<void> {
    this.#stopping = true
    this.#wake()
    await this.#done
  }

  /** preempted and stepMs, the time in steps, are since the start. */
  counts(): { waiting: number; running: number; preempted: number; stepMs: number } {
    const [waiting, running] = [this.#waiting.length, this.#running.length]
    return { waiting, running, preempted: this.#preempted, stepMs: this.#stepMs }
  }

  #arrival(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  /** Carries out a plan and returns the spans to run, moved up past what the prefix cache holds. */
  #begin({ fail, preempt, admit, rows }: Plan): Span[] {
    const { cache } = this.#forward
    for (const sequence of fail) {
      const length = `${sequence.beams[0].ids.length} tokens${seatsOf(sequence) > 1 ? ` in each of ${seatsOf(sequence)} beams` : ''}`
      const cause = `this request has grown to ${length} and the KV cache holds ${cache.tokensMax}`
      this.#fail(sequence, new MeshError(Code.RESOURCE_EXHAUSTED, `${cause}: raise --kv-memory-mib`))
    }
    for (const sequence of preempt) {
      this.#preempted++
      for (const { id } of sequence.beams) cache.drop(id)
      dropSource(cache, sequence)
      this.#running = this.#running.filter((other) => other !== sequence)
      this.#waiting.unshift(Object.assign(sequence, { status: 'waiting' }, restarted(sequence)))
    }
    for (const sequence of admit) this.#admit(sequence)
    this.#waiting = this.#waiting.filter(({ status }) => status === 'waiting')
    const spans = rows.map(advance)
    for (const { beam, end } of spans) assert(cache.reserve(beam.id, end), 'the schedule counted the blocks')
    return spans
  }

  #admit(sequence: Sequence): void {
    const { id, source } = sequence.request
    const { cache } = this.#forward
    const [beam] = sequence.beams
    beam.cached = cache.open(beam.id, beam.ids, this.#salt(sequence))
    if (source.length > 0) assert(openSource(cache, sequence), 'the schedule counted the blocks')
    sequence.status = 'running'
    this.#running.push(sequence)
    if (!this.#announced.has(sequence)) this.#emit([{ kind: 'started', id, cachedTokens: beam.cached }])
    this.#announced.add(sequence)
  }

  /** What a sequence's cached rows depend on besides its ids. Prompts scored in full never start from another's rows. */
  #salt({ request }: Sequence): string {
    const { positions } = this.#forward.config
    const scaling = positions.kind === 'rope' ? positions.scaling : null
    const stretched = scaling?.kind === 'dynamic' && request.prompt.length > scaling.maxPositions
    if (request.promptLogprobs) return request.id
    if (request.source.length > 0) return sourceName(request.source)
    return stretched ? `prompt of ${request.prompt.length}` : ''
  }

  /** Takes the results of a step into its sequences and says what is to be told. */
  #settle(batch: Batch, logits: Float32Array): EngineEvent[] {
    const events: EngineEvent[] = []
    const width = this.#forward.config.vocabulary
    const rows = wantedRows(batch)
    const logitsOf = new Map(rows.map((row, i) => [row, logits.subarray(i * width, (i + 1) * width)]))
    const lastOf = new Map<Beam, Float32Array | undefined>()
    for (const [i, { sequence, beam, begin, end }] of batch.spans.entries()) {
      const error = batch.failed.get(sequence)
      if (error) this.#fail(sequence, error)
      if (error || this.#cancelled.has(sequence.request.id)) continue
      beam.cached = end
      if (sequence.request.promptLogprobs)
        events.push(
          ...scorePrompt(sequence, begin, end, (position) => logitsOf.get(batch.starts[i] + position - begin)),
        )
      if (end === beam.ids.length) lastOf.set(beam, logitsOf.get(batch.starts[i + 1] - 1))
    }
    for (const sequence of new Set(batch.spans.map(({ sequence }) => sequence))) {
      const last = sequence.beams.flatMap((beam) => lastOf.get(beam) ?? [])
      if (last.length === sequence.beams.length) events.push(...this.#advance(sequence, last))
    }
    return events
  }

  /** Takes logits [V] of every beam of a sequence into it, and says what is to be told. */
  #advance(sequence: Sequence, logits: readonly Float32Array[]): EngineEvent[] {
    try {
      const tokens = nextTokens(sequence, logits, this.#forward)
      if (sequence.search ? sequence.search.search.done : tokens[0].finish) this.#leave(sequence, true)
      return tokens.map((token) => ({ kind: 'token', ...token }))
    } catch (error) {
      this.#fail(sequence, MeshError.from(error))
      return []
    }
  }

  /** retain: the rows of its first beam may serve others. */
  #leave(sequence: Sequence, retain: boolean): void {
    const { cache } = this.#forward
    sequence.status = 'finished'
    this.#running = this.#running.filter((other) => other !== sequence)
    for (const [place, { id, ids }] of sequence.beams.entries())
      cache.release(id, { retain: retain && place === 0, ids })
    dropSource(cache, sequence)
  }

  #fail(sequence: Sequence, { code, message }: MeshError): void {
    if (sequence.status === 'finished') return
    if (sequence.status === 'running') this.#leave(sequence, false)
    sequence.status = 'finished'
    this.#waiting = this.#waiting.filter((other) => other !== sequence)
    const { id } = sequence.request
    // Calling off its calls makes a cancelled one fail, of which nobody is to hear.
    if (!this.#cancelled.has(id)) this.#emit([{ kind: 'failed', id, code, message }])
  }

  #dropCancelled(): void {
    for (const sequence of this.#running) if (this.#cancelled.has(sequence.request.id)) this.#leave(sequence, false)
    this.#waiting = this.#waiting.filter(({ request }) => !this.#cancelled.has(request.id))
    this.#cancelled.clear()
  }
}

/** What a step's logits [V] of every beam of a sequence lead to: one token, or what a search that is done has found. */
const nextTokens = (
  sequence: Sequence,
  logits: readonly Float32Array[],
  { config, cache }: Pick<Forward, 'config' | 'cache'>,
): TokenEvent[] => {
  const { request, search, beams } = sequence
  if (search) return followSearch(sequence, search, logits, { cache, encoder: config.encoder })
  const [{ ids }] = beams
  const output = ids.slice(request.prompt.length)
  const constraint = constrain(config.encoder, request, output)
  const { token, logprob } = sample(logits[0], { prompt: request.prompt, output }, request.sampling, request.choice, {
    logprobs: request.logprobs,
    ...constraint,
  })
  ids.push(token)
  const finish = finishReason(request, [...output, token], config.contextLength, constraint.forced)
  const digest = request.digest ? positionDigest(logits[0]) : null
  return [{ id: request.id, index: output.length, token, logprob, digest, finish }]
}

/** What the schedule knows of the cache: a sequence's blocks and those of its source are one. */
const blockCounts = (cache: KvCache): BlockCounts => ({
  freeBlocks: cache.freeBlocks,
  held: ({ request, beams }) => beams.reduce((sum, { id }) => sum + cache.held(id), cache.held(sourceId(request.id))),
  blocksFor: (tokens) => cache.blocksFor(tokens),
})

/** Rows of a batch whose logits matter: a sequence's last token, and every prompt token where the prompt is scored. */
const wantedRows = (batch: Batch): number[] =>
  batch.spans.flatMap(({ sequence, beam, begin, end }, i) => {
    const first = batch.starts[i]
    if (sequence.request.promptLogprobs && begin < sequence.request.prompt.length)
      return Array.from({ length: end - begin }, (_, row) => first + row)
    return end === beam.ids.length ? [first + end - begin - 1] : []
  })

/** Log-probabilities of the prompt tokens that rows [begin, end) predict, as one event per chunk; the first token has none. */
const scorePrompt = (
  { request }: Sequence,
  begin: number,
  end: number,
  logitsAt: (position: number) => Float32Array | undefined,
): EngineEvent[] => {
  const logprobs = []
  for (let position = begin; position < Math.min(end, request.prompt.length - 1); position++) {
    const logits = logitsAt(position)
    if (logits) logprobs.push(tokenLogprob(logits, request.prompt[position + 1], request.logprobs ?? 0))
  }
  if (begin > 0 && logprobs.length === 0) return []
  if (begin === 0) return [{ kind: 'prompt', id: request.id, begin, logprobs: [null, ...logprobs] }]
  return [{ kind: 'prompt', id: request.id, begin: begin + 1, logprobs }]
}
