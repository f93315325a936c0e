import { Code, MeshError } from '../../shared/errors.ts'
import { advance, type Limits, type Plan, type Span, schedule } from './batch/schedule.ts'
import type { Batch } from './forward/batch.ts'
import { positionDigest } from './forward/digest.ts'
import { tokenLogprob } from './forward/logprob.ts'
import { blockRows } from './forward/open.ts'
import { sample } from './forward/sample.ts'
import { type Forward, step } from './forward/step.ts'
import type { EngineEvent, FinishReason, GenerationRequest, Sequence } from './sequence.ts'
import { finishReason } from './stream/finish.ts'

/** The engine of one model: requests come in by submit, what becomes of them goes out by emit. */
export type RunningEngine = {
  submit(request: GenerationRequest): void
  cancel(id: string): void
  /** Ends the loop after the step under way. */
  stop(): Promise<void>
  counts(): { waiting: number; running: number; preempted: number }
}

/** Runs sequences until stopped: batch → step → emit → settle. Events only enqueue; the loop takes them between steps. */
export const startEngine = (forward: Forward, limits: Limits, emit: (events: EngineEvent[]) => void): RunningEngine => {
  const { cache } = forward
  let waiting: Sequence[] = []
  let running: Sequence[] = []
  let arrivals = 0
  let preempted = 0
  let stopping = false
  let wake = (): void => {}
  const cancelled = new Set<string>()
  /** A preempted sequence starts again, but is announced once. */
  const started = new WeakSet<Sequence>()
  let current: { spans: readonly Span[]; abort: AbortController } | null = null

  const loop = async (): Promise<void> => {
    while (!stopping) {
      dropCancelled()
      const spans = begin(schedule({ waiting, running, limits, cache }))
      if (spans.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
        continue
      }
      current = { spans, abort: new AbortController() }
      try {
        const { batch, logits } = await step(forward, spans, wantedRows, current.abort.signal)
        settle(spans, batch, logits)
      } catch (error) {
        for (const { sequence } of spans) fail(sequence, MeshError.from(error))
      }
      current = null
    }
  }

  /** Carries out a plan and returns the spans to run, moved up past what the prefix cache holds. */
  const begin = ({ fail: impossible, preempt, admit, rows }: Plan): Span[] => {
    for (const sequence of impossible) {
      const cure = `it has ${sequence.ids.length} tokens and the KV cache holds ${cache.totalBlocks * blockRows}; raise --kv-memory-mib`
      fail(sequence, new MeshError(Code.RESOURCE_EXHAUSTED, `this request does not fit the KV cache: ${cure}`))
    }
    for (const sequence of preempt) {
      preempted++
      cache.drop(sequence.request.id)
      running = running.filter((other) => other !== sequence)
      waiting.unshift(Object.assign(sequence, { status: 'waiting', cached: 0 }))
    }
    for (const sequence of admit) {
      const { id } = sequence.request
      sequence.cached = cache.open(id, sequence.ids, salt(sequence))
      sequence.status = 'running'
      running.push(sequence)
      if (!started.has(sequence)) emit([{ kind: 'started', id, cachedTokens: sequence.cached }])
      started.add(sequence)
    }
    waiting = waiting.filter((sequence) => sequence.status === 'waiting')
    const spans = rows.map(advance)
    for (const { sequence, end } of spans) {
      if (!cache.reserve(sequence.request.id, end)) throw new Error('the schedule promised blocks that are not there')
    }
    return spans
  }

  /** What a sequence's cached rows depend on besides its ids. Prompts scored in full never start from another's rows. */
  const salt = ({ request }: Sequence): string => {
    const { scaling } = forward.config.positions
    const stretched = scaling.kind === 'dynamic' && request.prompt.length > scaling.maxPositions
    if (request.promptLogprobs) return request.id
    return stretched ? `prompt of ${request.prompt.length}` : ''
  }

  /** Takes the results of a step into the sequences, and tells. */
  const settle = (spans: readonly Span[], batch: Batch, logits: Float32Array): void => {
    const events: EngineEvent[] = []
    const rows = wantedRows(batch)
    const width = forward.config.vocabulary
    const logitsOf = new Map(rows.map((row, i) => [row, logits.subarray(i * width, (i + 1) * width)]))
    spans.forEach(({ sequence, begin, end }, i) => {
      const error = batch.failed.get(sequence)
      if (error) return fail(sequence, error)
      sequence.cached = end
      if (cancelled.has(sequence.request.id)) return
      const { request, ids } = sequence
      if (request.promptLogprobs)
        events.push(...scorePrompt(sequence, begin, end, (p) => logitsOf.get(batch.starts[i] + p - begin)))
      const last = logitsOf.get(batch.starts[i + 1] - 1)
      if (end < ids.length || !last) return
      events.push(nextToken(sequence, last))
    })
    emit(events)
  }

  const nextToken = (sequence: Sequence, logits: Float32Array): EngineEvent => {
    const { request, ids } = sequence
    const output = ids.slice(request.prompt.length)
    const banned = output.length < request.minTokens ? request.stopIds : []
    const drawn = sample(logits, { prompt: request.prompt, output }, request.sampling, request.choice, {
      logprobs: request.logprobs,
      banned,
    })
    ids.push(drawn.token)
    const finish = finishReason(request, [...output, drawn.token], forward.config.contextLength)
    if (finish) leave(sequence, finish)
    return {
      kind: 'token',
      id: request.id,
      index: output.length,
      token: drawn.token,
      logprob: drawn.logprob,
      digest: request.digest ? positionDigest(logits) : null,
      finish,
    }
  }

  const leave = (sequence: Sequence, reason: FinishReason): void => {
    sequence.status = 'finished'
    running = running.filter((other) => other !== sequence)
    cache.release(sequence.request.id, { retain: reason !== 'cancelled', ids: sequence.ids })
  }

  const fail = (sequence: Sequence, { code, message }: MeshError): void => {
    if (sequence.status === 'finished') return
    if (sequence.status === 'running') cache.drop(sequence.request.id)
    sequence.status = 'finished'
    running = running.filter((other) => other !== sequence)
    waiting = waiting.filter((other) => other !== sequence)
    emit([{ kind: 'failed', id: sequence.request.id, code, message }])
  }

  const dropCancelled = (): void => {
    for (const sequence of running.filter(({ request }) => cancelled.has(request.id))) leave(sequence, 'cancelled')
    waiting = waiting.filter(({ request }) => !cancelled.has(request.id))
    cancelled.clear()
  }

  const done = loop()
  return {
    submit(request) {
      waiting.push({ request, ids: [...request.prompt], cached: 0, status: 'waiting', arrival: arrivals++ })
      wake()
    },
    cancel(id) {
      cancelled.add(id)
      // Nobody waits for this step any more: its calls to the workers are called off too.
      if (current?.spans.every(({ sequence }) => cancelled.has(sequence.request.id))) current.abort.abort()
      wake()
    },
    async stop() {
      stopping = true
      wake()
      await done
    },
    counts: () => ({ waiting: waiting.length, running: running.length, preempted }),
  }
}

/** Rows of a batch whose logits matter: a sequence's last token, and every prompt token where the prompt is scored. */
const wantedRows = (batch: Batch): number[] =>
  batch.spans.flatMap(({ sequence, begin, end }, i) => {
    const first = batch.starts[i]
    if (sequence.request.promptLogprobs && begin < sequence.request.prompt.length)
      return Array.from({ length: end - begin }, (_, r) => first + r)
    return end === sequence.ids.length ? [first + end - begin - 1] : []
  })

/** Log-probabilities of the prompt tokens that rows [begin, end) predict, as one event per chunk. */
const scorePrompt = (
  { request }: Sequence,
  begin: number,
  end: number,
  logitsAt: (position: number) => Float32Array | undefined,
): EngineEvent[] => {
  const logprobs = []
  for (let p = begin; p < Math.min(end, request.prompt.length - 1); p++) {
    const logits = logitsAt(p)
    if (logits) logprobs.push(tokenLogprob(logits, request.prompt[p + 1], request.logprobs ?? 0))
  }
  return begin === 0 || logprobs.length > 0
    ? [{ kind: 'prompt', id: request.id, logprobs: begin === 0 ? [null, ...logprobs] : logprobs }]
    : []
}
