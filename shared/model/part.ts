import type { ModelConfig, Precision } from './config.ts'
import { outputGraph, projectGraph } from './graph/attend.ts'
import { expertGraph, sharedGraph } from './graph/ffn.ts'
import { embedGraph, headGraph } from './graph/head.ts'
import type { Graph } from './graph/onnx.ts'

/** A piece of a model that is one graph over one shard file. Experts go to workers, everything else to the gateway. */
export type Part =
  | { kind: 'embed' }
  | { kind: 'project'; layer: number }
  | { kind: 'output'; layer: number }
  | { kind: 'shared'; layer: number }
  | { kind: 'expert'; layer: number; expert: number }
  | { kind: 'head' }

export const shardName = (part: Part): string => {
  if (part.kind === 'expert') return `expert-${part.layer}-${part.expert}.bin`
  return 'layer' in part ? `${part.kind}-${part.layer}.bin` : `${part.kind}.bin`
}

export const partGraph = (config: ModelConfig, part: Part, precision: Precision): Graph => {
  switch (part.kind) {
    case 'embed':
      return embedGraph(config)
    case 'project':
      return projectGraph(config, precision)
    case 'output':
      return outputGraph(config, part.layer, precision)
    case 'shared':
      return sharedGraph(config, part.layer, precision)
    case 'expert':
      return expertGraph(config, precision)
    case 'head':
      return headGraph(config, precision)
  }
}

/** A dense layer's FFN, or shared experts, which a sparse layer may lack. */
export const hasShared = (config: ModelConfig, layer: number): boolean =>
  config.layers[layer].ffn === 'dense' || config.moe.sharedWidth > 0

/** What the gateway itself runs. */
export const gatewayParts = (config: ModelConfig): Part[] => [
  { kind: 'embed' },
  ...config.layers.flatMap((_, layer): Part[] => [
    { kind: 'project', layer },
    { kind: 'output', layer },
    ...(hasShared(config, layer) ? [{ kind: 'shared', layer } as const] : []),
  ]),
  { kind: 'head' },
]

export type LayerExperts = { layer: number; experts: readonly number[] }

export const expertParts = (experts: readonly LayerExperts[]): Part[] =>
  experts.flatMap(({ layer, experts: ids }) => ids.map((expert): Part => ({ kind: 'expert', layer, expert })))
