import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import { openExperts } from '../../shared/model/experts.ts'
import { RunningEngine } from './engine.ts'
import type { Arrived, Runners } from './forward/dispatch.ts'
import { blockRows, closeForward, kernelMs, openForward } from './forward/open.ts'
import { connectRemote } from './forward/remote.ts'
import { DROPPED, type Routes } from './forward/route.ts'
import type { Forward, LayerTimes } from './forward/step.ts'
import { localRunners } from './placement/local.ts'
import type { Topology } from './placement/locate.ts'
import { openReferee } from './placement/referee.ts'
import { WorkerRunners } from './placement/runners.ts'
import type { EngineReport, EngineSetup, FaultReport, FromEngine, ToEngine } from './port.ts'

/**
 * The engine's thread: kernels block it, so the API, timers and the control plane live in another. Everything of the engine is
 * put together here.
 */
const REPORT_INTERVAL_MS = 250

type Taker = (message: ToEngine) => void

const run = async (setup: EngineSetup, send: (message: FromEngine) => void): Promise<Taker> => {
  const { topology } = setup
  const experts = topology ? connectWorkers(setup, topology, send) : await openLocalExperts(setup)
  const tally = startTally()
  const forward: Forward = await openForward({
    ...setup,
    runners: experts.runners,
    limits: setup.dispatch,
    observe: (layer, routes, arrived, spent, rows) => {
      if (layer === (forward.config.encoder?.layers ?? 0)) tally.begin(rows)
      tally.observe(layer, routes, arrived, spent)
    },
  })
  const engine = new RunningEngine(forward, setup.limits, (events) => send({ kind: 'events', events }))
  const reporting = setInterval(
    () => send({ kind: 'report', report: { ...tally.take(forward, engine.counts()), ...experts.report() } }),
    REPORT_INTERVAL_MS,
  )

  const stop = async (): Promise<void> => {
    clearInterval(reporting)
    await engine.stop()
    await closeForward(forward)
    await experts.close()
    send({ kind: 'stopped' })
    parentPort?.close()
  }
  const apply = async (topology: Topology): Promise<void> => {
    await experts.setTopology(topology)
    send({ kind: 'applied', version: topology.version })
  }
  const { totalBlocks } = forward.cache
  send({ kind: 'ready', room: { contextLength: forward.config.contextLength, cacheBlocks: totalBlocks, blockRows } })
  return (message) => {
    if (message.kind === 'submit') engine.submit(message.request)
    else if (message.kind === 'cancel') engine.cancel(message.id)
    else if (message.kind === 'topology') void apply(message.topology)
    else if (message.kind === 'stop') void stop()
  }
}

type Experts = {
  runners: Runners
  setTopology(topology: Topology): Promise<void>
  report(): FaultReport
  close(): Promise<void>
}

const connectWorkers = (setup: EngineSetup, topology: Topology, send: (message: FromEngine) => void): Experts => {
  const { token, modelHash, dispatch } = setup
  const referee = openReferee(setup)
  const runners = new WorkerRunners({
    connect: (address) => connectRemote({ address, token, maxFrameBytes: dispatch.frameBytesMax, model: modelHash }),
    onState: (address, state) => send({ kind: 'state', address, state }),
    referee: referee.compute,
  })
  void runners.setTopology(topology)
  return {
    runners,
    setTopology: (next) => runners.setTopology(next),
    report: () => runners.report(),
    async close() {
      runners.close()
      await referee.close()
    },
  }
}

/** Without workers the experts live here: the same path with other runners. */
const openLocalExperts = async (setup: EngineSetup): Promise<Experts> => {
  const experts = await openExperts({ ...setup, device: 'cpu' })
  const { layers, moe } = experts.config
  for (const [layer, { ffn }] of layers.entries()) {
    if (ffn === 'sparse') for (let expert = 0; expert < moe.experts; expert++) await experts.load(layer, expert)
  }
  const report = { workers: [], counts: { hedged: 0, failed: 0, ejected: 0, lost: 0, audited: 0, lied: 0 } }
  const runners = localRunners(experts)
  return { runners, setTopology: async () => {}, report: () => report, close: () => experts.close() }
}

const noTimes: LayerTimes = { attendMs: 0, dispatchMs: 0, sharedMs: 0, waitMs: 0, expertsMs: 0, combineMs: 0, bytes: 0 }

/** Sums what the layers report until it is taken. */
const startTally = () => {
  let times = { ...noTimes }
  let steps = 0
  let rows = 0
  let expertRows: Record<string, number[][]> = {}
  let before = { stepMs: 0, kernelMs: 0 }
  return {
    /** A step of so many rows is past its first layer; sources pass through an encoder's layers before it. */
    begin(batchRows: number): void {
      steps++
      rows += batchRows
    },
    observe(layer: number, { ids, topK }: Routes, { names, source }: Arrived, spent: LayerTimes): void {
      for (const name of Object.keys(times) as (keyof LayerTimes)[]) times[name] += spent[name]
      if (topK === 0) return
      const counted = names.map((name) => {
        expertRows[name] ??= []
        expertRows[name][layer] ??= []
        return expertRows[name][layer]
      })
      for (const [assignment, id] of ids.entries()) {
        if (id === DROPPED) continue
        const rowsOf = counted[source[assignment]]
        rowsOf[id] = (rowsOf[id] ?? 0) + 1
      }
    },
    take(
      forward: Forward,
      { stepMs, ...counts }: ReturnType<RunningEngine['counts']>,
    ): Omit<EngineReport, keyof FaultReport> {
      const cacheShare = 1 - forward.cache.freeBlocks / forward.cache.totalBlocks
      const since = { stepMs, kernelMs: kernelMs(forward) }
      const totals = { stepMs: since.stepMs - before.stepMs, kernelMs: since.kernelMs - before.kernelMs }
      const report = { steps, rows, times: { ...times, ...totals }, expertRows, cacheShare, ...counts }
      before = since
      times = { ...noTimes }
      steps = 0
      rows = 0
      expertRows = {}
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
