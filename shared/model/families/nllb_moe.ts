import type { Capacity } from '../config.ts'
import type { Family } from './decoder.ts'
import { fairseqNames, readEmbeddingScale, readFairseq, readHalf } from './fairseq.ts'
import type { Keys } from './keys.ts'
import { readFixed, stackLayers, stackWeights } from './stacks.ts'

/**
 * NLLB-200's mixture of experts (arXiv:2207.04672; transformers 4's modeling_nllb_moe.py, which agrees with fairseq): M2M-100 with two
 * experts a row in every sparse_step-th layer. A request's ids are all its own, so none counts as padding.
 */
export const nllb_moe: Family = (keys, generation, holds) => {
  readFixed(keys, { router_bias: false, batch_prioritized_routing: false })
  keys.word('router_dtype', ['float32'], 'float32')
  keys.word('second_expert_policy', ['all'], 'all')
  const basics = readFairseq(keys, generation, { family: 'nllb-moe', activation: 'relu' })
  const experts = keys.count('num_experts')
  if (experts < 2) throw keys.refuse('num_experts', 'but every row goes to two')
  const dropout = keys.number('moe_token_dropout', 0.2)
  if (dropout < 0 || dropout >= 1)
    throw keys.refuse('moe_token_dropout', 'but a number from 0 to less than 1 is needed')
  const config = {
    ...basics,
    norm: { kind: 'layer' as const, placement: 'pre' as const, eps: 1e-5 },
    positions: { kind: 'sinusoidal' as const, first: keys.whole('pad_token_id', 1) + 1, divisor: readHalf(keys) - 1 },
    embedding: { scale: readEmbeddingScale(keys, true), norm: false },
    moe: {
      experts,
      topK: 2,
      width: basics.denseWidth,
      router: {
        score: 'softmax' as const,
        bias: false,
        groups: null,
        renormalise: { epsilon: 0 },
        // Trained with dropout over whole experts, whose results are scaled to their expectation when none is dropped.
        scale: 1 - dropout,
        capacity: readCapacity(keys),
      },
      sharedWidth: 0,
      sharedGate: false,
    },
    layers: (['encoder', 'decoder'] as const).flatMap((stack) => {
      const every = keys.whole(`${stack}_sparse_step`, 4)
      return stackLayers(keys.count(`${stack}_layers`), (index) => every > 0 && (index + 1) % every === 0)
    }),
    head: { scale: 1, bias: false },
  }
  const names = fairseqNames(holds, { cross: 'cross_attention', ffn: 'ffn.', ffnNorm: 'ff_layer_norm' })
  return { config, weights: stackWeights(config, names) }
}

/** A share of the source's rows, or, where that is none, expert_capacity rows. */
const readCapacity = (keys: Keys): Capacity => {
  const share = keys.number('moe_eval_capacity_token_fraction', 1)
  const dropFirst = !keys.flag('normalize_router_prob_before_dropping', false)
  return { limit: share > 0 ? { share } : { rows: keys.count('expert_capacity', 64) }, dropFirst }
}
