/** The entry of a compute thread: runs frames and opens experts one after the other, because a kernel blocks its thread. */
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { invalid, MeshError } from '../../shared/errors.ts'
import { checksum } from '../../shared/frame.ts'
import { coresQuota, openGranted } from '../../shared/machine.ts'
import { type ExpertFrame, type Experts, openExperts } from '../../shared/model/experts.ts'
import { finiteRows, NO_ROWS, type TokenRows } from '../../shared/model/rows.ts'
import {
  type ComputeSetup,
  type Done,
  type FromCompute,
  type Job,
  type ModelSource,
  notHeld,
  nowUs,
  type ToCompute,
} from './job.ts'

const compute = ({ cacheDir, device, threads }: Omit<ComputeSetup, 'bell'>): ((job: Job) => Promise<TokenRows>) => {
  const opened = new Map<string, Experts>()

  const run = async (model: string, frame: ExpertFrame): Promise<TokenRows> => {
    const experts = opened.get(model)
    for (const expert of frame.expert) {
      if (!experts?.holds(frame.layer, expert)) throw notHeld(frame.layer, expert)
    }
    if (!finiteRows(frame)) throw invalid('rows hold a value that is not finite', 'rows')
    return experts ? experts.run(frame) : NO_ROWS
  }

  const load = async ({ hash, dir, precision }: ModelSource, layer: number, expert: number): Promise<void> => {
    const experts = opened.get(hash) ?? (await openExperts({ modelDir: dir, cacheDir, precision, device, threads }))
    opened.set(hash, experts)
    await experts.load(layer, expert)
  }

  return async (job) => {
    if (job.kind === 'run') return run(job.model, job.frame)
    if (job.kind === 'load') await load(job.model, job.layer, job.expert)
    else await opened.get(job.model)?.unload(job.layer, job.expert)
    return NO_ROWS
  }
}

/** Sleeps on the bell while there is nothing to do: it wakes in a fraction of the time that an event loop takes to notice a message. */
const serve = async (port: MessagePort, { bell, ...setup }: ComputeSetup): Promise<never> => {
  const perform = compute(setup)
  const granted = openGranted(coresQuota())
  const answer = async ({ id, job }: ToCompute): Promise<void> => {
    const startedUs = nowUs()
    granted()
    try {
      const rows = await perform(job)
      const computeUs = nowUs() - startedUs
      const busyUs = Math.max(computeUs, granted())
      const done: Done = { ...rows, startedUs, computeUs, busyUs, crc: checksum(rows) }
      const arrays = rows === NO_ROWS ? [] : [rows.rows, ...(rows.rowScale ? [rows.rowScale] : [])]
      port.postMessage(
        { id, done } satisfies FromCompute,
        arrays.map(({ buffer }) => buffer as ArrayBuffer),
      )
    } catch (error) {
      const { code, message } = MeshError.from(error)
      port.postMessage({ id, code, message } satisfies FromCompute)
    }
  }
  for (;;) {
    const heard = Atomics.load(bell, 0)
    const next = receiveMessageOnPort(port)
    if (next) await answer(next.message)
    else Atomics.wait(bell, 0, heard)
  }
}

if (parentPort) void serve(parentPort, workerData)
