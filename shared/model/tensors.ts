import type { ExpertTensor, Ffn, LayerTensor, ModelConfig, ModelTensor, StackTensor } from './config.ts'

/** A tensor that a config calls for, with its shape. */
export type Shapes<Name extends string> = ReadonlyMap<Name, readonly number[]>

export const modelTensors = (config: ModelConfig): Shapes<ModelTensor> => {
  const { vocabulary, hidden } = config
  const own = stackTensors(config)
  const prefixed = own.map(([name, shape]): [ModelTensor, readonly number[]] => [`encoder.${name}`, shape])
  return new Map<ModelTensor, readonly number[]>([
    ['embed', [vocabulary, hidden]],
    ...(config.encoder ? prefixed : []),
    ...own,
    ['head', [vocabulary, hidden]],
    ...only<ModelTensor>(config.head.bias, [['head.bias', [1, vocabulary]]]),
  ])
}

const stackTensors = ({ hidden, positions: p, attention, embedding, norm }: ModelConfig): Listed<StackTensor> => [
  ...only<StackTensor>(p.kind === 'learned' || p.kind === 'relative', [
    ['positions', p.kind === 'learned' ? [p.rows, hidden] : p.kind === 'relative' ? [p.buckets, attention.heads] : []],
  ]),
  ...(embedding.norm ? normTensors('embed.norm', norm, hidden) : []),
  ...(norm.placement === 'pre' ? normTensors('norm', norm, hidden) : []),
]

const normTensors = <Name extends string>(
  name: Name,
  { kind }: ModelConfig['norm'],
  hidden: number,
): Listed<Name | `${Name}.bias`> => [[name, [hidden]], ...only(kind === 'layer', [[`${name}.bias` as const, [hidden]]])]

export const expertTensors = ({ hidden, moe, ffn }: ModelConfig): Shapes<ExpertTensor> =>
  new Map(ffnShapes(ffn, hidden, moe.width))

const ffnShapes = ({ gated, bias }: Ffn, hidden: number, width: number): Listed<ExpertTensor> => [
  ...only<ExpertTensor>(gated, [['gate', [width, hidden]]]),
  ['up', [width, hidden]],
  ...only<ExpertTensor>(bias, [['up.bias', [width]]]),
  ['down', [hidden, width]],
  ...only<ExpertTensor>(bias, [['down.bias', [hidden]]]),
]

/** Whether a layer is one of the encoder's. */
export const inEncoder = ({ encoder }: ModelConfig, layer: number): boolean => layer < (encoder?.layers ?? 0)

/** Whether a layer attends to the encoder's rows too. */
export const hasCross = (config: ModelConfig, layer: number): boolean =>
  config.encoder !== null && !inEncoder(config, layer)

/** Every tensor of one layer but its experts'. */
export const layerTensors = (config: ModelConfig, layer: number): Shapes<LayerTensor> =>
  new Map<LayerTensor, readonly number[]>([
    ...normTensors('attention.norm', config.norm, config.hidden),
    ...attentionTensors(config),
    ...(hasCross(config, layer) ? crossTensors(config) : []),
    ...normTensors('ffn.norm', config.norm, config.hidden),
    ...ffnTensors(config, layer),
  ])

const crossTensors = (config: ModelConfig): Listed<LayerTensor> => {
  const own = new Map(attentionTensors(config))
  const names = ['q', 'q.bias', 'k', 'k.bias', 'v', 'v.bias', 'o', 'o.bias'] as const
  return [
    ...normTensors('cross.norm', config.norm, config.hidden),
    ...names.flatMap((name): Listed<LayerTensor> => {
      const shape = own.get(`attention.${name}`)
      return shape ? [[`cross.${name}`, shape]] : []
    }),
  ]
}

type Listed<Name> = [Name, readonly number[]][]

const attentionTensors = ({ hidden, attention: a }: ModelConfig): Listed<LayerTensor> => {
  if (a.kind === 'mla') {
    const queries = a.heads * (a.nope + a.rope)
    const q: Listed<LayerTensor> =
      a.qLora === null
        ? [['attention.q', [queries, hidden]]]
        : [
            ['attention.q.a', [a.qLora, hidden]],
            ...only<LayerTensor>(a.bias, [['attention.q.a.bias', [a.qLora]]]),
            ['attention.q.a.norm', [a.qLora]],
            ['attention.q.b', [queries, a.qLora]],
          ]
    return [
      ...q,
      ['attention.kv.a', [a.kvLora + a.rope, hidden]],
      ...only<LayerTensor>(a.bias, [['attention.kv.a.bias', [a.kvLora + a.rope]]]),
      ['attention.kv.a.norm', [a.kvLora]],
      ['attention.kv.b', [a.heads * (a.nope + a.valueDim), a.kvLora]],
      ['attention.o', [hidden, a.heads * a.valueDim]],
      ...only<LayerTensor>(a.bias, [['attention.o.bias', [hidden]]]),
    ]
  }
  const queries = a.heads * a.headDim
  const keys = a.kvHeads * a.headDim
  return [
    ['attention.q', [queries, hidden]],
    ...only<LayerTensor>(a.bias.q, [['attention.q.bias', [queries]]]),
    ['attention.k', [keys, hidden]],
    ...only<LayerTensor>(a.bias.k, [['attention.k.bias', [keys]]]),
    ['attention.v', [keys, hidden]],
    ...only<LayerTensor>(a.bias.v, [['attention.v.bias', [keys]]]),
    ['attention.o', [hidden, queries]],
    ...only<LayerTensor>(a.bias.o, [['attention.o.bias', [hidden]]]),
    ...only<LayerTensor>(a.qkNorm !== 'none', [
      ['attention.q.norm', [a.qkNorm === 'head' ? a.headDim : queries]],
      ['attention.k.norm', [a.qkNorm === 'head' ? a.headDim : keys]],
    ]),
  ]
}

const ffnTensors = ({ hidden, denseWidth, moe, layers, ffn }: ModelConfig, layer: number): Listed<LayerTensor> => {
  const dense = layers[layer].ffn === 'dense'
  const width = dense ? denseWidth : moe.sharedWidth
  const shared = ffnShapes(ffn, hidden, width).map(([name, shape]): [LayerTensor, readonly number[]] => [
    `shared.${name}`,
    shape,
  ])
  return [
    ...(width > 0 ? shared : []),
    ...only<LayerTensor>(!dense && moe.sharedWidth > 0 && moe.sharedGate, [['shared.router', [1, hidden]]]),
    ...only<LayerTensor>(!dense, [['router', [moe.experts, hidden]]]),
    ...only<LayerTensor>(!dense && moe.router.bias, [['router.bias', [moe.experts]]]),
  ]
}

const only = <Name>(wanted: boolean, tensors: Listed<Name>): Listed<Name> => (wanted ? tensors : [])
