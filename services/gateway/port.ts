import type { Worker } from 'node:worker_threads'
import { Code } from '../../shared/errors.ts'
import type { Precision } from '../../shared/model/config.ts'
import type { Limits } from './batch/schedule.ts'
import type { DispatchLimits } from './forward/dispatch.ts'
import type { LayerTimes } from './forward/step.ts'
import type { State } from './placement/health.ts'
import type { Topology } from './placement/locate.ts'
import type { WorkerRunners } from './placement/runners.ts'
import type { Engine, EngineEvent, GenerationRequest } from './sequence.ts'

/** What the engine thread needs to start. */
export type EngineSetup = {
  modelDir: string
  cacheDir: string
  precision: Precision
  modelHash: string
  threads: number
  kvMemoryBytes: number | null
  maxSequences: number
  limits: Limits
  dispatch: DispatchLimits
  /** null: the experts live in the engine thread itself. */
  topology: Topology | null
  token: string | null
}

export type ToEngine =
  | { kind: 'submit'; request: GenerationRequest }
  | { kind: 'cancel'; id: string }
  /** Where experts are looked for from now on. */
  | { kind: 'topology'; topology: Topology }
  | { kind: 'stop' }

/** What the engine did since the last report. Times are summed over layers, in milliseconds; kernelMs is spent in this process's graphs. */
export type EngineReport = {
  steps: number
  rows: number
  times: LayerTimes & { stepMs: number; kernelMs: number }
  /** Token rows through experts: [worker][layer][expert]. */
  expertRows: Readonly<Record<string, readonly (readonly number[])[]>>
  cacheShare: number
  waiting: number
  running: number
  /** Sequences sent back to be computed again, since the start. */
  preempted: number
} & FaultReport

/** What became of the workers: how each stands now, and what happened to any since the start. */
export type FaultReport = ReturnType<WorkerRunners['report']>

export type EngineRoom = {
  /** Longest prompt + output: the model's, or less where the KV cache holds less. */
  contextLength: number
  cacheBlocks: number
  /** Tokens of a block. */
  blockRows: number
}

export type FromEngine =
  | { kind: 'ready'; room: EngineRoom }
  | { kind: 'events'; events: readonly EngineEvent[] }
  | { kind: 'report'; report: EngineReport }
  /** The topology of this version is in force. */
  | { kind: 'applied'; version: number }
  /** The engine thinks otherwise of a worker than before. */
  | { kind: 'state'; address: string; state: State }
  | { kind: 'stopped' }

/** The main thread's end of the engine: an Engine, whose events come back in order. */
export type EnginePort = Engine & {
  readonly room: EngineRoom
  /** Takes effect between two steps. */
  /** Settles when nothing more is sent to where an earlier one led. */
  setTopology(topology: Topology): Promise<void>
  stop(): Promise<void>
}

export type EngineListeners = {
  onReport(report: EngineReport): void
  onState(address: string, state: State): void
  onDeath(error: Error): void
}

/** Speaks to an engine thread. When the thread dies, every request with it fails UNAVAILABLE and onDeath is told why. */
export const connectEngine = (thread: Worker, { onReport, onState, onDeath }: EngineListeners): Promise<EnginePort> => {
  const listeners = new Map<string, (event: EngineEvent) => void>()
  const post = (message: ToEngine): void => thread.postMessage(message)
  /** Who waits for which version of the topology. */
  const applied = new Map<number, () => void>()
  let stopped = (): void => {}
  const deliver = (event: EngineEvent): void => {
    const listener = listeners.get(event.id)
    if (event.kind === 'failed' || (event.kind === 'token' && event.finish !== null)) listeners.delete(event.id)
    listener?.(event)
  }
  const die = (error: Error): void => {
    const message = `the engine stopped: ${error.message}`
    // Whoever ends the process here leaves what was running to other gateways.
    onDeath(error)
    for (const id of [...listeners.keys()]) deliver({ kind: 'failed', id, code: Code.UNAVAILABLE, message })
  }
  const port: Omit<EnginePort, 'room'> = {
    submit(request, onEvent) {
      listeners.set(request.id, onEvent)
      post({ kind: 'submit', request })
    },
    cancel(id) {
      listeners.delete(id)
      post({ kind: 'cancel', id })
    },
    setTopology: (topology) =>
      new Promise((resolve) => {
        applied.set(topology.version, resolve)
        post({ kind: 'topology', topology })
      }),
    stop: () =>
      new Promise((resolve) => {
        stopped = resolve
        post({ kind: 'stop' })
      }),
  }
  return new Promise((resolve, reject) => {
    thread.on('error', (error) => {
      reject(error)
      die(error)
    })
    thread.on('message', (message: FromEngine) => {
      if (message.kind === 'events') for (const event of message.events) deliver(event)
      else if (message.kind === 'report') onReport(message.report)
      else if (message.kind === 'applied') {
        applied.get(message.version)?.()
        applied.delete(message.version)
      } else if (message.kind === 'state') onState(message.address, message.state)
      else if (message.kind === 'ready') resolve({ ...port, room: message.room })
      else stopped()
    })
  })
}
