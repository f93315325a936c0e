import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectWorker, type WorkerChannel } from '../../services/gateway/forward/channel.ts'
import { controlWorker } from '../../services/gateway/placement/workers.ts'
import type { Precision } from '../../shared/model/config.ts'
import { type ExpertFrame, type Experts, openExperts } from '../../shared/model/experts.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { demo } from './cluster.ts'
import { startWorker } from './service.ts'

const LOAD_LIMIT_MS = 60_000
/** What the worker's clients must present. */
export const TOKEN = 'a-token-of-its-own'
const limits = ['--compute-threads', '2', '--threads', '2', '--max-frame-mib', '1', '--max-queued-frames', '64']
const held = [
  { layer: 1, experts: [0, 1, 2, 3] },
  { layer: 2, experts: [5] },
]

/** A worker process that holds experts 0 to 3 of layer 1 and expert 5 of layer 2, in every precision. */
export type HeldExperts = {
  address: string
  hidden: number
  /** Model hashes. */
  hashes: Record<Precision, string>
  /** The same experts in this process. */
  local: Record<Precision, Experts>
  channel: WorkerChannel
  close(): Promise<void>
}

/** It takes frames up to 1 MiB, and 64 unanswered ones of a stream, and asks for a token. Listens on a free port unless told otherwise. */
export const holdDemoExperts = async (listen?: string): Promise<HeldExperts> => {
  const folder = mkdtempSync(join(tmpdir(), 'expertmesh-worker-'))
  const [cacheDir, tokenFile] = [join(folder, 'cache'), join(folder, 'token')]
  writeFileSync(tokenFile, TOKEN)
  const worker = await startWorker([
    ...limits,
    ...(listen ? ['--listen', listen] : []),
    '--cache',
    cacheDir,
    '--token-file',
    tokenFile,
  ])
  const { address } = worker
  const control = controlWorker({ address, token: TOKEN })
  const model = await openModel(demo)
  const hold = async (precision: Precision): Promise<[string, Experts]> => {
    const hash = await modelHash(model, precision, cacheDir)
    await control.load(hash, held, LOAD_LIMIT_MS)
    const experts = await openExperts({ modelDir: demo, cacheDir, precision, device: 'cpu', threads: 1 })
    for (const { layer, experts: ids } of held) for (const expert of ids) await experts.load(layer, expert)
    return [hash, experts]
  }
  const all = { fp32: await hold('fp32'), int8: await hold('int8'), int4: await hold('int4') }
  await model.close()
  const channel = connectWorker({ address, token: TOKEN, maxFrameBytes: 2 ** 20 })
  return {
    address,
    hidden: model.config.hidden,
    hashes: { fp32: all.fp32[0], int8: all.int8[0], int4: all.int4[0] },
    local: { fp32: all.fp32[1], int8: all.int8[1], int4: all.int4[1] },
    channel,
    async close() {
      channel.close()
      control.close()
      await worker.stop()
      for (const [, experts] of Object.values(all)) await experts.close()
      rmSync(folder, { recursive: true })
    },
  }
}

/** A few random rows for experts 0 to 3 of layer 1. */
export const randomFrame = (next: (limit: number) => number, hidden: number, precision: Precision): ExpertFrame => {
  const [rowCount, assignments] = [1 + next(6), 1 + next(12)]
  const length = rowCount * hidden
  const int8 = precision === 'int8'
  return {
    layer: 1,
    rowCount,
    hidden,
    rows: int8
      ? Uint8Array.from({ length }, () => 1 + next(255))
      : Float32Array.from({ length }, () => next(2000) / 1000 - 1),
    rowScale: int8 ? Float32Array.from({ length: rowCount }, () => next(1000) / 500) : null,
    rowIndex: Uint32Array.from({ length: assignments }, () => next(rowCount)),
    expert: Uint32Array.from({ length: assignments }, () => next(4)).sort(),
  }
}
