/** A gateway's engine in this process over real workers, whose steps are taken apart by who spent their time. */
import assert from 'node:assert/strict'
import { RunningEngine } from '../../services/gateway/engine.ts'
import type { Arrived } from '../../services/gateway/forward/dispatch.ts'
import { closeForward, openForward } from '../../services/gateway/forward/open.ts'
import type { Forward, LayerTimes } from '../../services/gateway/forward/step.ts'
import { spaceOf } from '../../services/gateway/placement/fleet.ts'
import type { EngineEvent } from '../../services/gateway/sequence.ts'
import { coresAllowed } from '../../shared/machine.ts'
import type { Session } from '../../shared/model/session.ts'
import { requestOf } from '../support/local.ts'
import { seeded } from '../support/random.ts'
import { FRAME_BYTES_MAX, startHolders } from './holders.ts'
import type { Prepared } from './models.ts'

const WORKERS = 2
const LIMITS = { chunk: 512, maxSequences: 64, maxBatchTokens: 1024 }
const LAYER_LIMIT_MS = 120_000

/** What a step is made of, in the order in which it is told; all but the wait for the experts is this process's. */
export const groups = {
  kernels: ['project', 'attention', 'output, router', 'dense FFN', 'shared experts', 'embed', 'head'],
  waiting: ['experts compute'],
  wire: ['dispatch until sent', 'wire and workers'],
  JavaScript: ['around attention', 'around shared', 'combine', 'sampling and the rest'],
} as const
export type Part = (typeof groups)[keyof typeof groups][number]
export const parts: readonly Part[] = Object.values(groups).flat()

/** ms, and bytes of token rows both ways, since the start; busiest: of a layer's worker with the most assignments, these and its ms. */
type Spent = Record<Part | 'step' | 'bytes' | 'busiestMs' | 'busiestAssignments', number>
/** Of one step; an assignment's ms are of the experts' kernels. */
export type StepSpent = Record<Part | 'step' | 'bytes' | 'ms per assignment', number>

export type Profile = {
  /** So many tokens after a prompt of random ids: what its first step cost, and each of the others on average. */
  run(promptTokens: number, tokens: number): Promise<{ first: StepSpent; next: StepSpent | null }>
  close(): Promise<void>
}

export const openProfile = async (model: Prepared): Promise<Profile> => {
  const { dir, cacheDir, precision, config } = model
  const holders = await startHolders(model, WORKERS, spaceOf(config).layers)
  const times: Seen[] = []
  const forward = await openForward({
    modelDir: dir,
    cacheDir,
    precision,
    threads: coresAllowed(),
    kvMemoryBytes: null,
    maxSequences: LIMITS.maxSequences,
    runners: holders.runners,
    limits: { timeoutMs: LAYER_LIMIT_MS, frameBytesMax: FRAME_BYTES_MAX },
    observe: (_layer, _routes, arrived, spent) => void times.push({ ...spent, ...busiest(arrived) }),
  })
  let onEvents: (events: EngineEvent[]) => void = () => {}
  const engine = new RunningEngine(forward, LIMITS, (events) => onEvents(events))
  const next = seeded(1)
  return {
    run(promptTokens, tokens) {
      const prompt = Array.from({ length: promptTokens }, () => next(config.vocabulary))
      const marks = [mark(forward, engine, times)]
      return new Promise((resolve, reject) => {
        onEvents = (events) => {
          const last = events.at(-1)
          if (last?.kind === 'failed') reject(new Error(last.message))
          if (last?.kind !== 'token') return
          // A step is counted when it has ended, which is after its events.
          setImmediate(() => {
            if (last.index > 0 && !last.finish) return
            marks.push(mark(forward, engine, times))
            if (!last.finish) return
            const [before, first, end] = marks
            resolve({ first: between(before, first, 1), next: end ? between(first, end, tokens - 1) : null })
          })
        }
        engine.submit(requestOf(prompt, tokens, { digest: false }))
      })
    },
    async close() {
      await engine.stop()
      await closeForward(forward)
      await holders.close()
    },
  }
}

type Seen = LayerTimes & { busiestMs: number; busiestAssignments: number }

/** The slowest worker is taken to be the one with the most to do. */
const busiest = ({ sources, source, computeMs }: Arrived): Pick<Seen, 'busiestMs' | 'busiestAssignments'> => {
  const counts = sources.map(() => 0)
  for (const from of source) if (from < counts.length) counts[from]++
  return { busiestMs: computeMs, busiestAssignments: Math.max(0, ...counts) }
}

const mark = (forward: Forward, engine: RunningEngine, layers: readonly Seen[]): Spent => {
  const kernel = (sessions: readonly (Session | null)[]): number =>
    sessions.reduce((sum, session) => sum + (session?.spentMs ?? 0), 0)
  const sum = (name: keyof Seen): number => layers.reduce((total, times) => total + times[name], 0)
  const { config, attend, embed, shared, head } = forward
  assert(config.encoder === null, 'an encoder has graphs that are not told apart here')
  const dense = (ffn: 'dense' | 'sparse') => shared.filter((_, layer) => config.layers[layer].ffn === ffn)
  const kernels = {
    project: kernel(attend.project),
    attention: kernel([attend.attention, attend.windowed]),
    'output, router': kernel(attend.output),
    'dense FFN': kernel(dense('dense')),
    'shared experts': kernel(dense('sparse')),
    embed: kernel([embed.embed]),
    head: kernel([head]),
  }
  const around = {
    'experts compute': sum('expertsMs'),
    'wire and workers': sum('waitMs') - sum('expertsMs'),
    'dispatch until sent': sum('dispatchMs'),
    'around attention': sum('attendMs') - kernels.project - kernels.attention - kernels['output, router'],
    'around shared': sum('sharedMs') - kernels['dense FFN'] - kernels['shared experts'],
    combine: sum('combineMs'),
  }
  const step = engine.counts().stepMs
  const told = Object.values({ ...kernels, ...around }).reduce((total, ms) => total + ms, 0)
  const counted = { bytes: sum('bytes'), busiestMs: sum('busiestMs'), busiestAssignments: sum('busiestAssignments') }
  return { ...kernels, ...around, 'sampling and the rest': step - told, step, ...counted }
}

/** Of each of so many steps between two marks. */
const between = (before: Spent, after: Spent, steps: number): StepSpent => {
  const spent = (name: keyof Spent): number => (after[name] - before[name]) / steps
  const told = [...parts, 'step' as const, 'bytes' as const].map((name) => [name, spent(name)])
  return { ...Object.fromEntries(told), 'ms per assignment': spent('busiestMs') / spent('busiestAssignments') }
}
