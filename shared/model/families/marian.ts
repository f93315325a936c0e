import type { Family } from './decoder.ts'
import { fairseqNames, readEmbeddingScale, readFairseq, readHalf } from './fairseq.ts'
import { noExperts, readAlike, readFixed, stackLayers, stackWeights } from './stacks.ts'

/** Marian, the original Transformer (arXiv:1706.03762; transformers' modeling_marian.py). Its positions are computed, not read. */
export const marian: Family = (keys, generation, holds) => {
  readFixed(keys, {
    normalize_before: false,
    normalize_embedding: false,
    add_final_layer_norm: false,
    static_position_embeddings: true,
    share_encoder_decoder_embeddings: true,
  })
  readAlike(keys, 'vocab_size', 'decoder_vocab_size')
  const config = {
    ...readFairseq(keys, generation, { family: 'marian', activation: 'gelu' }),
    norm: { kind: 'layer' as const, placement: 'post' as const, eps: 1e-5 },
    positions: { kind: 'sinusoidal' as const, first: 0, divisor: readHalf(keys) },
    embedding: { scale: readEmbeddingScale(keys, false), norm: false },
    moe: noExperts,
    layers: [...stackLayers(keys.count('encoder_layers')), ...stackLayers(keys.count('decoder_layers'))],
    head: { scale: 1, bias: holds('final_logits_bias') },
  }
  const names = fairseqNames(holds, { cross: 'encoder_attn', ffn: '', ffnNorm: 'final_layer_norm' })
  return { config, weights: stackWeights(config, names) }
}
