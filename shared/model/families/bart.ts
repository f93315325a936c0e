import type { Family } from './decoder.ts'
import { fairseqNames, readEmbeddingScale, readFairseq } from './fairseq.ts'
import { noExperts, readFixed, stackLayers, stackWeights } from './stacks.ts'

/** Rows that fairseq keeps before the first position. */
const FIRST = 2

/** BART (arXiv:1910.13461; transformers' modeling_bart.py). */
export const bart: Family = (keys, generation, holds) => {
  readFixed(keys, {
    normalize_before: false,
    normalize_embedding: true,
    add_final_layer_norm: false,
    static_position_embeddings: false,
  })
  const basics = readFairseq(keys, generation, { family: 'bart', activation: 'gelu' })
  const config = {
    ...basics,
    norm: { kind: 'layer' as const, placement: 'post' as const, eps: 1e-5 },
    positions: { kind: 'learned' as const, first: FIRST, rows: basics.contextLength + FIRST },
    embedding: { scale: readEmbeddingScale(keys, false), norm: true },
    moe: noExperts,
    layers: [...stackLayers(keys.count('encoder_layers')), ...stackLayers(keys.count('decoder_layers'))],
    head: { scale: 1, bias: holds('final_logits_bias') },
  }
  const names = fairseqNames(holds, { cross: 'encoder_attn', ffn: '', ffnNorm: 'final_layer_norm' })
  return { config, weights: stackWeights(config, names) }
}
