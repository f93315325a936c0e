import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import { openExperts } from '../../shared/model/experts.ts'
import { RunningEngine } from './engine.ts'
import { connectWorker } from './forward/channel.ts'
import type { Locate, Runner } from './forward/dispatch.ts'
import { closeForward, kernelMs, openForward } from './forward/open.ts'
import type { Routes } from './forward/route.ts'
import type { Forward, LayerTimes } from './forward/step.ts'
import { localRunner } from './placement/local.ts'
import { locate } from './placement/locate.ts'
import type { EngineReport, EngineSetup, FromEngine, ToEngine } from './port.ts'

/**
 * The engine's thread: kernels block it, so the API, timers and the control plane live in another. Everything of the engine is
 * put together here.
 */
const REPORT_INTERVAL_MS = 250

type Taker = (message: ToEngine) => void

const run = async (setup: EngineSetup, send: (message: FromEngine) => void): Promise<Taker> => {
  const runners = setup.topology ? await connectWorkers(setup) : await openLocalExperts(setup)
  const tally = startTally()
  const forward = await openForward({
    ...setup,
    locate: runners.locate,
    limits: setup.dispatch,
    observe: tally.observe,
  })
  const engine = new RunningEngine(forward, setup.limits, (events) => send({ kind: 'events', events }))
  const reporting = setInterval(
    () => send({ kind: 'report', report: tally.take(forward, engine.counts()) }),
    REPORT_INTERVAL_MS,
  )

  const stop = async (): Promise<void> => {
    clearInterval(reporting)
    await engine.stop()
    await closeForward(forward)
    await runners.close()
    send({ kind: 'stopped' })
    parentPort?.close()
  }
  send({ kind: 'ready', contextLength: forward.config.contextLength })
  return (message) => {
    if (message.kind === 'submit') engine.submit(message.request)
    else if (message.kind === 'cancel') engine.cancel(message.id)
    else void stop()
  }
}

type Runners = { locate: Locate; close(): Promise<void> }

const connectWorkers = async ({ topology, token, modelHash, dispatch }: EngineSetup): Promise<Runners> => {
  assert(topology)
  const channels = topology.workers.map((address) =>
    connectWorker({ address, token, maxFrameBytes: dispatch.frameBytesMax }),
  )
  const runners = channels.map(
    (channel, i): Runner => ({
      name: topology.workers[i],
      send: (frame, options) => channel.send(frame, modelHash, options),
    }),
  )
  return {
    locate: (layer, expert) => runners[locate(topology, layer, expert)[0]],
    async close() {
      for (const channel of channels) channel.close()
    },
  }
}

/** Without workers the experts live here: the same path with another locate. */
const openLocalExperts = async (setup: EngineSetup): Promise<Runners> => {
  const experts = await openExperts({ ...setup, device: 'cpu' })
  const { layers, moe } = experts.config
  for (const [layer, { ffn }] of layers.entries()) {
    if (ffn === 'sparse') for (let expert = 0; expert < moe.experts; expert++) await experts.load(layer, expert)
  }
  const runner = localRunner(experts)
  return { locate: () => runner, close: () => experts.close() }
}

const noTimes: LayerTimes = { attendMs: 0, dispatchMs: 0, sharedMs: 0, waitMs: 0, expertsMs: 0, combineMs: 0, bytes: 0 }

/** Sums what the layers report until it is taken. */
const startTally = () => {
  let times = { ...noTimes }
  let steps = 0
  let rows = 0
  let expertRows: number[][] = []
  let before = { stepMs: 0, kernelMs: 0 }
  return {
    observe(layer: number, { ids, topK }: Routes, spent: LayerTimes, batchRows: number): void {
      for (const name of Object.keys(times) as (keyof LayerTimes)[]) times[name] += spent[name]
      if (layer === 0) {
        steps++
        rows += batchRows
      }
      if (topK === 0) return
      expertRows[layer] ??= []
      for (const id of ids) expertRows[layer][id] = (expertRows[layer][id] ?? 0) + 1
    },
    take(forward: Forward, { stepMs, ...counts }: ReturnType<RunningEngine['counts']>): EngineReport {
      const cacheShare = 1 - forward.cache.freeBlocks / forward.cache.totalBlocks
      const since = { stepMs, kernelMs: kernelMs(forward) }
      const totals = { stepMs: since.stepMs - before.stepMs, kernelMs: since.kernelMs - before.kernelMs }
      const report = { steps, rows, times: { ...times, ...totals }, expertRows, cacheShare, ...counts }
      before = since
      times = { ...noTimes }
      steps = 0
      rows = 0
      expertRows = []
      return report
    },
  }
}

assert(parentPort, 'this file is the entry of a thread')
const port = parentPort
const send = (message: FromEngine): void => port.postMessage(message)
const pending: ToEngine[] = []
let take: Taker = (message) => {
  pending.push(message)
}
port.on('message', (message: ToEngine) => take(message))
take = await run(workerData as EngineSetup, send)
for (const message of pending) take(message)
