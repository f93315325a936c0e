import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { RunningEngine } from '../../services/gateway/engine.ts'
import type { Runner } from '../../services/gateway/forward/dispatch.ts'
import { closeForward, openForward } from '../../services/gateway/forward/open.ts'
import { localRunners } from '../../services/gateway/placement/local.ts'
import type { Engine, EngineEvent, GenerationRequest, Sampling } from '../../services/gateway/sequence.ts'
import type { Precision } from '../../shared/model/config.ts'
import { openExperts } from '../../shared/model/experts.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { expertParts, gatewayParts } from '../../shared/model/part.ts'
import { missingParts, shardFolder, writeShard } from '../../shared/model/shard.ts'

export const greedy: Sampling = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 0n,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: new Map(),
}

export const requestOf = (
  prompt: readonly number[],
  maxTokens: number,
  more: Partial<GenerationRequest> = {},
): GenerationRequest => ({
  id: `request ${requests++}`,
  model: '',
  source: [],
  prompt,
  resume: [],
  maxTokens,
  minTokens: 0,
  noRepeatNgram: 0,
  stopIds: [],
  sampling: greedy,
  search: null,
  choice: 0,
  logprobs: null,
  promptLogprobs: false,
  digest: true,
  ...more,
})
let requests = 0

/** How long a layer waits for experts that nobody holds. */
const MISSING_LIMIT_MS = 500
/** And for those of workers, which may be busy. */
const WORKERS_LIMIT_MS = 60_000

export type Generated = { ids: number[]; digests: string[]; events: EngineEvent[] }

export type LocalOptions = {
  precision?: Precision
  kvMemoryBytes?: number
  chunk?: number
  maxBatchTokens?: number
  maxSequences?: number
  threads?: number
  /** Who runs an expert; else this process. */
  runner?: (layer: number, expert: number) => Runner
}

/** The whole engine in this process and thread, experts included: the real path without the wire. */
export type Local = {
  /** What the API works with. */
  engine: Engine
  /** onEvent hears of every event as it comes. */
  generate(request: GenerationRequest, onEvent?: (event: EngineEvent) => void): Promise<Generated>
  counts(): { waiting: number; running: number; preempted: number }
  /** Blocks of the cache that no running sequence holds. */
  freeBlocks(): number
  /** Whether anyone holds the experts, from the next layer on. */
  hold(experts: boolean): void
  close(): Promise<void>
}

export const openLocal = async (modelDir: string, options: LocalOptions = {}): Promise<Local> => {
  const {
    precision = 'fp32',
    kvMemoryBytes = 64 << 20,
    chunk = 512,
    maxBatchTokens = 1024,
    maxSequences = 64,
    threads = 1,
    runner,
  } = options
  const cacheDir = await mkdtemp(join(tmpdir(), 'expertmesh-test-'))
  const model = await openModel(modelDir)
  const { config } = model
  const sparse = [...config.layers.keys()].filter((layer) => config.layers[layer].ffn === 'sparse')
  const all = sparse.map((layer) => ({ layer, experts: [...Array(config.moe.experts).keys()] }))
  const folder = shardFolder(cacheDir, await modelHash(model, precision, cacheDir))
  const parts = [...gatewayParts(config), ...expertParts(all)]
  for (const part of await missingParts(model, folder, precision, parts))
    await writeShard(model, folder, precision, part)
  await model.close()

  const experts = await openExperts({ modelDir, cacheDir, precision, device: 'cpu', threads })
  for (const { layer, experts: ids } of all) for (const expert of ids) await experts.load(layer, expert)
  const runners = localRunners(experts)
  let held = true
  const forward = await openForward({
    modelDir,
    cacheDir,
    precision,
    threads,
    kvMemoryBytes,
    maxSequences,
    runners: {
      ...runners,
      pick: (...asked) => (held ? (runner?.(asked[0], asked[1]) ?? runners.pick(...asked)) : null),
    },
    limits: { timeoutMs: runner ? WORKERS_LIMIT_MS : MISSING_LIMIT_MS, frameBytesMax: 1 << 26 },
    observe: () => {},
  })
  const listeners = new Map<string, (event: EngineEvent) => void>()
  const running = new RunningEngine(forward, { chunk, maxBatchTokens, maxSequences }, (events) => {
    for (const event of events) listeners.get(event.id)?.(event)
  })
  const engine: Engine = {
    submit(request, onEvent) {
      listeners.set(request.id, onEvent)
      running.submit(request)
    },
    cancel: (id) => running.cancel(id),
  }
  return {
    engine,
    generate: (request, onEvent = () => {}) =>
      new Promise((resolve, reject) => {
        const generated: Generated = { ids: [], digests: [], events: [] }
        engine.submit(request, (event) => {
          generated.events.push(event)
          onEvent(event)
          if (event.kind === 'failed') reject(new Error(event.message))
          if (event.kind !== 'token') return
          generated.ids.push(event.token)
          if (event.digest) generated.digests.push(Buffer.from(event.digest).toString('hex'))
          if (event.finish) resolve(generated)
        })
      }),
    counts: () => running.counts(),
    freeBlocks: () => forward.cache.freeBlocks,
    hold(experts) {
      held = experts
    },
    async close() {
      await running.stop()
      await closeForward(forward)
      await experts.close()
      await rm(cacheDir, { recursive: true, force: true })
    },
  }
}
