import { memoryAllowedBytes } from '../../../shared/machine.ts'
import type { ModelConfig, Precision } from '../../../shared/model/config.ts'
import { attentionGraph, cacheArrays } from '../../../shared/model/graph/attend.ts'
import type { Graph } from '../../../shared/model/graph/onnx.ts'
import { modelHash, openModel } from '../../../shared/model/open.ts'
import { hasShared, type Part, partGraph, shardName } from '../../../shared/model/part.ts'
import { openRope, ropeOf } from '../../../shared/model/rope.ts'
import { openSession, type Session } from '../../../shared/model/session.ts'
import { shardFolder } from '../../../shared/model/shard.ts'
import { KvCache } from './cache.ts'
import type { Forward } from './step.ts'

export type ForwardOptions = {
  modelDir: string
  cacheDir: string
  precision: Precision
  /** Threads inside one operator. */
  threads: number
  /** null: what maxSequences sequences of full length need, but at most KV_SHARE of the memory allowed. */
  kvMemoryBytes: number | null
  maxSequences: number
} & Pick<Forward, 'runners' | 'limits' | 'observe'>

/** Token rows of a cache block: the smallest capacity at which attention's bits do not depend on capacity. */
export const blockRows = 128

/** Opens the gateway's side of a model: its shards must be on disk. */
export const openForward = async (options: ForwardOptions): Promise<Forward> => {
  const { modelDir, cacheDir, precision, threads, runners, limits, observe } = options
  const model = await openModel(modelDir)
  const cache = openCache(model.config, options)
  // What does not fit the cache can never be generated, so it is refused like what does not fit the context.
  const config = { ...model.config, contextLength: Math.min(model.config.contextLength, cache.tokensMax) }
  const folder = shardFolder(cacheDir, await modelHash(model, precision, cacheDir))
  const openGraph = (graph: Graph, shard: string) => openSession(graph, { folder, shard, threads, device: 'cpu' })
  const openPart = (part: Part) => openGraph(partGraph(config, part, precision), shardName(part))
  const perLayer = async <T>(open: (layer: number) => Promise<T>): Promise<T[]> => {
    const opened: T[] = []
    for (const layer of config.layers.keys()) opened.push(await open(layer))
    return opened
  }
  const readBias = (layer: number): Promise<Float32Array> =>
    model.checkpoint.read(model.weights.layer(layer, 'router.bias'))
  const biased = (layer: number): boolean => config.moe.router.bias && config.layers[layer].ffn === 'sparse'
  const forward = {
    config,
    rope: openRope(ropeOf(config)),
    cache,
    embed: await openPart({ kind: 'embed' }),
    attend: {
      project: await perLayer((layer) => openPart({ kind: 'project', layer })),
      output: await perLayer((layer) => openPart({ kind: 'output', layer })),
      attention: await openGraph(attentionGraph(config, { causal: true, mask: 'none' }), ''),
      windowed: await openGraph(attentionGraph(config, { causal: true, mask: 'rows' }), ''),
    },
    shared: await perLayer(async (layer) => (hasShared(config, layer) ? openPart({ kind: 'shared', layer }) : null)),
    bias: await perLayer(async (layer) => (biased(layer) ? readBias(layer) : null)),
    head: await openPart({ kind: 'head' }),
    runners,
    limits,
    observe,
  }
  await model.close()
  return forward
}

/** Part of the memory allowed that the KV cache takes at most, unless told otherwise. */
const KV_SHARE = 0.25

const openCache = (config: ModelConfig, { kvMemoryBytes, maxSequences }: ForwardOptions): KvCache => {
  const arrays = cacheArrays(config)
  const rowBytes = arrays.reduce((sum, { heads, dim }) => sum + heads * dim * Float32Array.BYTES_PER_ELEMENT, 0)
  const sequenceBytes = (config.contextLength + blockRows) * rowBytes * config.layers.length
  const memoryBytes =
    kvMemoryBytes ?? Math.min(maxSequences * sequenceBytes, Math.floor(memoryAllowedBytes() * KV_SHARE))
  return new KvCache({ layers: config.layers.length, arrays, blockRows, memoryBytes, retainedMax: maxSequences })
}

const sessionsOf = ({ attend, shared, ...forward }: Forward): Session[] =>
  [
    forward.embed,
    forward.head,
    attend.attention,
    attend.windowed,
    ...attend.project,
    ...attend.output,
    ...shared,
  ].filter((session) => session !== null)

/** Milliseconds spent in the gateway's own graphs since they were opened. */
export const kernelMs = (forward: Forward): number => sessionsOf(forward).reduce((sum, { spentMs }) => sum + spentMs, 0)

/** Releases the sessions and the cache. */
export const closeForward = async (forward: Forward): Promise<void> => {
  for (const session of sessionsOf(forward)) await session.close()
  forward.cache.close()
}
