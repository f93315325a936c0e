/** DeepSeekMoE checkpoints as llama.cpp's architecture `deepseek` has them: its keys, names and order of rows. */
import type { GqaAttention, LayerTensor, ModelConfig, Source } from '../../../shared/model/config.ts'
import { type Model, openModel } from '../../../shared/model/open.ts'
import { type GgmlType, toBlocks } from './blocks.ts'
import { type GgufTensor, type GgufValue, writeGguf } from './write.ts'

/** Writes the weights of a checkpoint folder in one format; norms and routers stay fp32, as llama.cpp's own quantiser has it. */
export const writeDeepseek = async (dir: string, path: string, type: GgmlType): Promise<void> => {
  const model = await openModel(dir)
  try {
    await writeGguf(path, keysOf(model.config), tensorsOf(model, type))
  } finally {
    await model.close()
  }
}

const keysOf = (config: ModelConfig): Map<string, GgufValue> => {
  const { hidden, layers, moe, norm, positions, contextLength, vocabulary, denseWidth } = config
  const { heads, kvHeads, headDim } = attentionOf(config)
  if (positions.kind !== 'rope' || positions.layout !== 'half' || positions.scaling.kind !== 'none')
    throw new Error('llama.cpp has deepseek with plain rotary positions alone')
  const uint = (value: number): GgufValue => ({ uint32: value })
  const own = Object.entries({
    vocab_size: uint(vocabulary),
    context_length: uint(contextLength),
    embedding_length: uint(hidden),
    block_count: uint(layers.length),
    leading_dense_block_count: uint(layers.findIndex(({ ffn }) => ffn === 'sparse')),
    feed_forward_length: uint(denseWidth),
    expert_feed_forward_length: uint(moe.width),
    expert_count: uint(moe.experts),
    expert_used_count: uint(moe.topK),
    expert_shared_count: uint(moe.sharedWidth / moe.width),
    expert_weights_scale: { float32: moe.router.scale },
    'attention.head_count': uint(heads),
    'attention.head_count_kv': uint(kvHeads),
    'attention.layer_norm_rms_epsilon': { float32: norm.eps },
    'rope.dimension_count': uint(headDim),
    'rope.freq_base': { float32: positions.theta },
  })
  return new Map<string, GgufValue>([
    ['general.architecture', { string: 'deepseek' }],
    ...own.map(([key, value]) => [`deepseek.${key}`, value] as const),
    ...vocabularyOf(vocabulary),
  ])
}

/** Kinds of tokens (llama_token_type). */
const NORMAL = 1
const UNKNOWN = 2
const BYTE = 6
const BYTES = 256

/**
 * Prompts are token ids, so what tokens spell does not matter; but llama.cpp wants a tokenizer, and the smallest one it takes knows every
 * byte.
 */
const vocabularyOf = (size: number): [string, GgufValue][] => {
  if (size <= BYTES) throw new Error(`a vocabulary of ${size} has no room for every byte beside one token`)
  const ids = [...Array(size).keys()]
  const spelled = (id: number): string => `<0x${id.toString(16).toUpperCase().padStart(2, '0')}>`
  return [
    ['tokenizer.ggml.model', { string: 'llama' }],
    ['tokenizer.ggml.tokens', { strings: ids.map((id) => (id < BYTES ? spelled(id) : `token ${id}`)) }],
    ['tokenizer.ggml.scores', { float32s: ids.map(() => 0) }],
    ['tokenizer.ggml.token_type', { int32s: ids.map((id) => (id < BYTES ? BYTE : id === BYTES ? UNKNOWN : NORMAL)) }],
    ['tokenizer.ggml.unknown_token_id', { uint32: BYTES }],
    ['tokenizer.ggml.bos_token_id', { uint32: BYTES }],
    ['tokenizer.ggml.eos_token_id', { uint32: BYTES }],
  ]
}

const attentionOf = ({ attention }: ModelConfig): GqaAttention => {
  if (attention.kind === 'gqa') return attention
  throw new Error('llama.cpp has deepseek with grouped-query attention alone')
}

type Names = readonly (readonly [name: LayerTensor, gguf: string])[]
const everyLayer: Names = [
  ['attention.norm', 'attn_norm'],
  ['attention.q', 'attn_q'],
  ['attention.k', 'attn_k'],
  ['attention.v', 'attn_v'],
  ['attention.o', 'attn_output'],
  ['ffn.norm', 'ffn_norm'],
]
const denseLayer: Names = [
  ['shared.gate', 'ffn_gate'],
  ['shared.up', 'ffn_up'],
  ['shared.down', 'ffn_down'],
]
const sparseLayer: Names = [
  ['router', 'ffn_gate_inp'],
  ['shared.gate', 'ffn_gate_shexp'],
  ['shared.up', 'ffn_up_shexp'],
  ['shared.down', 'ffn_down_shexp'],
]

const tensorsOf = ({ config, weights, checkpoint }: Model, type: GgmlType): GgufTensor[] => {
  const { heads, kvHeads } = attentionOf(config)
  const read = (source: Source): Promise<Float32Array> => checkpoint.read(source)
  const plain = (source: Source, gguf: string, pairs = 0): GgufTensor => {
    const kept = source.shape.length === 1 || gguf.endsWith('ffn_gate_inp') ? 'F32' : type
    async function* runs() {
      const values = await read(source)
      yield toBlocks(kept, pairs === 0 ? values : interleaved(values, pairs, source.shape[1]))
    }
    return { name: `${gguf}.weight`, shape: source.shape, type: kept, runs }
  }
  const experts = (layer: number, name: 'gate' | 'up' | 'down'): GgufTensor => {
    const { experts } = config.moe
    async function* runs() {
      for (let expert = 0; expert < experts; expert++)
        yield toBlocks(type, await read(weights.expert(layer, expert, name)))
    }
    const { shape } = weights.expert(layer, 0, name)
    return { name: `blk.${layer}.ffn_${name}_exps.weight`, shape: [experts, ...shape], type, runs }
  }
  const turned: Partial<Record<LayerTensor, number>> = { 'attention.q': heads, 'attention.k': kvHeads }
  const layers = config.layers.flatMap(({ ffn }, layer) => {
    const names = [...everyLayer, ...(ffn === 'dense' ? denseLayer : sparseLayer)]
    const own = names.map(([name, gguf]) => plain(weights.layer(layer, name), `blk.${layer}.${gguf}`, turned[name]))
    return ffn === 'dense' ? own : [...own, ...(['gate', 'up', 'down'] as const).map((name) => experts(layer, name))]
  })
  return [
    plain(weights.model('embed'), 'token_embd'),
    ...layers,
    plain(weights.model('norm'), 'output_norm'),
    plain(weights.model('head'), 'output'),
  ]
}

/**
 * llama.cpp turns pairs of neighbours of a head where the checkpoint has a pair's halves half a head apart: rows (p, j) of each head
 * become (j, p).
 */
const interleaved = (values: Float32Array, heads: number, width: number): Float32Array => {
  const half = values.length / width / heads / 2
  const out = new Float32Array(values.length)
  for (let head = 0; head < heads; head++)
    for (let part = 0; part < 2; part++)
      for (let j = 0; j < half; j++) {
        const from = (head * 2 * half + part * half + j) * width
        out.set(values.subarray(from, from + width), (head * 2 * half + 2 * j + part) * width)
      }
  return out
}
