import { invalid } from '../../../shared/errors.ts'
import { memoryAllowedBytes } from '../../../shared/machine.ts'
import type { ModelConfig, Precision } from '../../../shared/model/config.ts'
import { attentionGraph, cacheArrays, type Sight } from '../../../shared/model/graph/attend.ts'
import type { Graph } from '../../../shared/model/graph/onnx.ts'
import { type Model, modelHash, openModel } from '../../../shared/model/open.ts'
import { hasPlace, hasSettle, hasShared, type Part, partGraph, shardName } from '../../../shared/model/part.ts'
import { openRope } from '../../../shared/model/rope.ts'
import { openSession, type Session } from '../../../shared/model/session.ts'
import { shardFolder } from '../../../shared/model/shard.ts'
import { hasCross } from '../../../shared/model/tensors.ts'
import type { AttendSessions } from './attend.ts'
import { KvCache } from './cache.ts'
import { openRelative } from './relative.ts'
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
  const config = { ...model.config, contextLength: Math.min(model.config.contextLength, longest(cache, model.config)) }
  const folder = shardFolder(cacheDir, await modelHash(model, precision, cacheDir))
  const openGraph = (graph: Graph, shard: string) => openSession(graph, { folder, shard, threads, device: 'cpu' })
  const openAttention: OpenAttention = (causal, mask) => openGraph(attentionGraph(config, { causal, mask }), '')
  const openPart = (part: Part) => openGraph(partGraph(config, part, precision), shardName(part))
  const perLayer = async <T>(open: (layer: number) => Promise<T>): Promise<T[]> => {
    const opened: T[] = []
    for (const layer of config.layers.keys()) opened.push(await open(layer))
    return opened
  }
  const readBias = (layer: number): Promise<Float32Array> =>
    model.checkpoint.read(model.weights.layer(layer, 'router.bias'))
  const biased = (layer: number): boolean => config.moe.router.bias && config.layers[layer].ffn === 'sparse'
  const openWhere = async (wanted: boolean, part: Part) => (wanted ? openPart(part) : null)
  const { positions } = config
  const forward = {
    config,
    rope: positions.kind === 'rope' ? { angles: openRope(positions), dim: positions.dim } : null,
    cache,
    embed: {
      embed: await openPart({ kind: 'embed' }),
      place: {
        encoder: await openWhere(hasPlace(config) && config.encoder !== null, { kind: 'place', stack: 'encoder' }),
        decoder: await openWhere(hasPlace(config), { kind: 'place', stack: 'decoder' }),
      },
    },
    attend: {
      cross: await perLayer((layer) => openWhere(hasCross(config, layer), { kind: 'cross', layer })),
      project: await perLayer((layer) => openPart({ kind: 'project', layer })),
      output: await perLayer((layer) => openPart({ kind: 'output', layer })),
      attention: await openAttention(true, 'none'),
      windowed: await openAttention(true, 'rows'),
      whole: config.encoder && (await openAttention(false, 'none')),
      relative: await openRelatives(model, openAttention),
    },
    shared: await perLayer((layer) => openWhere(hasShared(config, layer), { kind: 'shared', layer })),
    source: await perLayer((layer) => openWhere(hasCross(config, layer), { kind: 'source', layer })),
    settle: await perLayer((layer) => openWhere(hasSettle(config), { kind: 'settle', layer })),
    bias: await perLayer(async (layer) => (biased(layer) ? readBias(layer) : null)),
    head: await openPart({ kind: 'head' }),
    runners,
    limits,
    observe,
  }
  await model.close()
  return forward
}

type OpenAttention = (causal: boolean, mask: Sight['mask']) => Promise<Session>

const openRelatives = async (
  { config, weights, checkpoint }: Model,
  openAttention: OpenAttention,
): Promise<AttendSessions['relative']> => {
  const { positions, encoder, contextLength } = config
  if (positions.kind !== 'relative' || !encoder) return null
  const tables = [weights.model('encoder.positions'), weights.model('positions')]
  const [both, back] = [await checkpoint.read(tables[0]), await checkpoint.read(tables[1])]
  return {
    causal: await openAttention(true, 'heads'),
    whole: await openAttention(false, 'heads'),
    encoder: openRelative(both, positions, true, contextLength),
    decoder: openRelative(back, positions, false, contextLength),
  }
}

/** Sequences that a sequence is to the cache: itself, and its source. */
const cachedSequences = ({ encoder }: ModelConfig): number => (encoder ? 2 : 1)

/** The longest sequence that fits the cache, beside a source as long where there is one. */
const longest = (cache: KvCache, config: ModelConfig): number => {
  const blocks = Math.floor(cache.totalBlocks / cachedSequences(config))
  if (blocks > 0) return blocks * blockRows
  throw invalid('The KV cache holds not one block each of a source and its output; give it more memory.')
}

/** Part of the memory allowed that the KV cache takes at most, unless told otherwise. */
const KV_SHARE = 0.25

const openCache = (config: ModelConfig, { kvMemoryBytes, maxSequences }: ForwardOptions): KvCache => {
  const arrays = cacheArrays(config)
  const rowBytes = arrays.reduce((sum, { heads, dim }) => sum + heads * dim * Float32Array.BYTES_PER_ELEMENT, 0)
  const firstLayer = config.encoder?.layers ?? 0
  const layers = config.layers.length - firstLayer
  const sequenceBytes = (config.contextLength + blockRows) * rowBytes * layers * cachedSequences(config)
  const memoryBytes =
    kvMemoryBytes ?? Math.min(maxSequences * sequenceBytes, Math.floor(memoryAllowedBytes() * KV_SHARE))
  return new KvCache({ layers, firstLayer, arrays, blockRows, memoryBytes, retainedMax: maxSequences })
}

const sessionsOf = ({ embed, attend, shared, source, settle, head }: Forward): Session[] =>
  [
    embed.embed,
    embed.place.encoder,
    embed.place.decoder,
    head,
    attend.attention,
    attend.windowed,
    attend.whole,
    ...(attend.relative ? [attend.relative.causal, attend.relative.whole] : []),
    ...attend.project,
    ...attend.cross,
    ...attend.output,
    ...shared,
    ...source,
    ...settle,
  ].filter((session) => session !== null)

/** Milliseconds spent in the gateway's own graphs since they were opened. */
export const kernelMs = (forward: Forward): number => sessionsOf(forward).reduce((sum, { spentMs }) => sum + spentMs, 0)

/** Releases the sessions and the cache. */
export const closeForward = async (forward: Forward): Promise<void> => {
  for (const session of sessionsOf(forward)) await session.close()
  forward.cache.close()
}
