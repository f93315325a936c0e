import type { ExpertTensor, LayerTensor, ModelConfig, ModelTensor } from './config.ts'

/** A tensor that a config calls for, with its shape. */
export type Shapes<Name extends string> = ReadonlyMap<Name, readonly number[]>

export const modelTensors = ({ vocabulary, hidden }: ModelConfig): Shapes<ModelTensor> =>
  new Map([
    ['embed', [vocabulary, hidden]],
    ['norm', [hidden]],
    ['head', [vocabulary, hidden]],
  ])

export const expertTensors = ({ hidden, moe }: ModelConfig): Shapes<ExpertTensor> =>
  new Map([
    ['gate', [moe.width, hidden]],
    ['up', [moe.width, hidden]],
    ['down', [hidden, moe.width]],
  ])

/** Every tensor of one layer but its experts'. */
export const layerTensors = (config: ModelConfig, layer: number): Shapes<LayerTensor> =>
  new Map<LayerTensor, readonly number[]>([
    ['attention.norm', [config.hidden]],
    ...attentionTensors(config),
    ['ffn.norm', [config.hidden]],
    ...ffnTensors(config, layer),
  ])

type Listed = [LayerTensor, readonly number[]][]

const attentionTensors = ({ hidden, attention: a }: ModelConfig): Listed => {
  if (a.kind === 'mla') {
    const queries = a.heads * (a.nope + a.rope)
    const q: Listed =
      a.qLora === null
        ? [['attention.q', [queries, hidden]]]
        : [
            ['attention.q.a', [a.qLora, hidden]],
            ...only(a.bias, [['attention.q.a.bias', [a.qLora]]]),
            ['attention.q.a.norm', [a.qLora]],
            ['attention.q.b', [queries, a.qLora]],
          ]
    return [
      ...q,
      ['attention.kv.a', [a.kvLora + a.rope, hidden]],
      ...only(a.bias, [['attention.kv.a.bias', [a.kvLora + a.rope]]]),
      ['attention.kv.a.norm', [a.kvLora]],
      ['attention.kv.b', [a.heads * (a.nope + a.valueDim), a.kvLora]],
      ['attention.o', [hidden, a.heads * a.valueDim]],
      ...only(a.bias, [['attention.o.bias', [hidden]]]),
    ]
  }
  const queries = a.heads * a.headDim
  const keys = a.kvHeads * a.headDim
  return [
    ['attention.q', [queries, hidden]],
    ...only(a.bias.q, [['attention.q.bias', [queries]]]),
    ['attention.k', [keys, hidden]],
    ...only(a.bias.k, [['attention.k.bias', [keys]]]),
    ['attention.v', [keys, hidden]],
    ...only(a.bias.v, [['attention.v.bias', [keys]]]),
    ['attention.o', [hidden, queries]],
    ...only(a.bias.o, [['attention.o.bias', [hidden]]]),
    ...only(a.qkNorm !== 'none', [
      ['attention.q.norm', [a.qkNorm === 'head' ? a.headDim : queries]],
      ['attention.k.norm', [a.qkNorm === 'head' ? a.headDim : keys]],
    ]),
  ]
}

const ffnTensors = ({ hidden, denseWidth, moe, layers }: ModelConfig, layer: number): Listed => {
  const dense = layers[layer].ffn === 'dense'
  const width = dense ? denseWidth : moe.sharedWidth
  return [
    ...only(width > 0, [
      ['shared.gate', [width, hidden]],
      ['shared.up', [width, hidden]],
      ['shared.down', [hidden, width]],
    ]),
    ...only(!dense && moe.sharedWidth > 0 && moe.sharedGate, [['shared.router', [1, hidden]]]),
    ...only(!dense, [['router', [moe.experts, hidden]]]),
    ...only(!dense && moe.router.bias, [['router.bias', [moe.experts]]]),
  ]
}

const only = (wanted: boolean, tensors: Listed): Listed => (wanted ? tensors : [])
