import type { ModelConfig, Precision } from './config.ts'
import { crossGraph, outputGraph, projectGraph, sourceGraph } from './graph/attend.ts'
import { expertGraph, sharedGraph } from './graph/ffn.ts'
import { embedGraph, headGraph, placeGraph, settleGraph } from './graph/head.ts'
import type { Graph } from './graph/onnx.ts'
import { hasCross } from './tensors.ts'

/** A piece of a model that is one graph over one shard file. Experts go to workers, everything else to the gateway. */
export type Part =
  | { kind: 'embed' }
  | { kind: 'place'; stack: 'encoder' | 'decoder' }
  | { kind: 'project'; layer: number }
  | { kind: 'source'; layer: number }
  | { kind: 'cross'; layer: number }
  | { kind: 'output'; layer: number }
  | { kind: 'settle'; layer: number }
  | { kind: 'shared'; layer: number }
  | { kind: 'expert'; layer: number; expert: number }
  | { kind: 'head' }

export const shardName = (part: Part): string => {
  if (part.kind === 'expert') return `expert-${part.layer}-${part.expert}.bin`
  if (part.kind === 'place') return `place-${part.stack}.bin`
  return 'layer' in part ? `${part.kind}-${part.layer}.bin` : `${part.kind}.bin`
}

/**
 * The form of a part's matrices in a model of this precision. An int4 model's head is int8: it is small beside the rest, and on the
 * demo model half of what four bits lose is lost there.
 */
export const formOf = ({ kind }: Part, precision: Precision): Precision =>
  kind === 'head' && precision === 'int4' ? 'int8' : precision

export const partGraph = (config: ModelConfig, part: Part, precision: Precision): Graph => {
  const form = formOf(part, precision)
  switch (part.kind) {
    case 'embed':
      return embedGraph(config)
    case 'place':
      return placeGraph(config)
    case 'project':
      return projectGraph(config, form)
    case 'source':
      return sourceGraph(config, form)
    case 'cross':
      return crossGraph(config, form)
    case 'settle':
      return settleGraph(config)
    case 'output':
      return outputGraph(config, part.layer, form)
    case 'shared':
      return sharedGraph(config, part.layer, form)
    case 'expert':
      return expertGraph(config, form)
    case 'head':
      return headGraph(config, form)
  }
}

/** A dense layer's FFN, or shared experts, which a sparse layer may lack. */
export const hasShared = (config: ModelConfig, layer: number): boolean =>
  config.layers[layer].ffn === 'dense' || config.moe.sharedWidth > 0

/** Whether embeddings need more than their table. */
export const hasPlace = ({ positions, embedding }: ModelConfig): boolean =>
  positions.kind === 'sinusoidal' || positions.kind === 'learned' || embedding.norm

/** Whether a norm ends each layer. */
export const hasSettle = ({ norm }: ModelConfig): boolean => norm.placement === 'post'

/** What the gateway itself runs. */
export const gatewayParts = (config: ModelConfig): Part[] => [
  { kind: 'embed' },
  ...(hasPlace(config) && config.encoder ? [{ kind: 'place', stack: 'encoder' } as const] : []),
  ...(hasPlace(config) ? [{ kind: 'place', stack: 'decoder' } as const] : []),
  ...config.layers.flatMap((_, layer): Part[] => [
    { kind: 'project', layer },
    ...(hasCross(config, layer) ? [{ kind: 'source', layer } as const, { kind: 'cross', layer } as const] : []),
    { kind: 'output', layer },
    ...(hasSettle(config) ? [{ kind: 'settle', layer } as const] : []),
    ...(hasShared(config, layer) ? [{ kind: 'shared', layer } as const] : []),
  ]),
  { kind: 'head' },
]

export type LayerExperts = { layer: number; experts: readonly number[] }

export const expertParts = (experts: readonly LayerExperts[]): Part[] =>
  experts.flatMap(({ layer, experts: ids }) => ids.map((expert): Part => ({ kind: 'expert', layer, expert })))
