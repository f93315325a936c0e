import type { Family } from './decoder.ts'
import type { Keys } from './keys.ts'
import { activationNames, activationOf, readFixed, type Stack, stackLayers, stackWeights } from './stacks.ts'
import { readDecoderLayers, readT5, t5Names } from './t5.ts'

/**
 * Switch Transformers (arXiv:2101.03961; transformers 4's modeling_switch_transformers.py, whose capacity counts within each sequence;
 * transformers 5.0 drops nothing): T5 with one expert a row in its sparse layers.
 */
export const switch_transformers: Family = (keys, generation, holds) => {
  readFixed(keys, { router_bias: false, is_gated_act: false })
  keys.word('router_dtype', ['float32'], 'float32')
  const basics = readT5(keys, generation)
  const config = {
    ...basics,
    ffn: {
      activation: activationOf(keys.word('dense_act_fn', activationNames, 'relu')),
      gated: false,
      bias: false,
    },
    moe: {
      experts: keys.count('num_experts'),
      topK: 1,
      width: basics.denseWidth,
      router: {
        score: 'softmax' as const,
        bias: false,
        groups: null,
        renormalise: null,
        scale: 1,
        capacity: { limit: { rows: keys.count('expert_capacity', 64) }, dropFirst: false },
      },
      sharedWidth: 0,
      sharedGate: false,
    },
    layers: [
      ...stackLayers(keys.count('num_layers'), readSparse(keys, 'encoder', keys.count('num_layers'))),
      ...stackLayers(readDecoderLayers(keys), readSparse(keys, 'decoder', readDecoderLayers(keys))),
    ],
  }
  return { config, weights: stackWeights(config, t5Names(holds, 'mlp', false)) }
}

/** Every step-th layer, from the second on; the step follows from the number of sparse layers where it is not given. */
const readSparse = (keys: Keys, stack: Stack, layers: number): ((index: number) => boolean) => {
  const sparse = keys.whole(`num_sparse_${stack}_layers`, 3)
  if (sparse > layers) throw keys.refuse(`num_sparse_${stack}_layers`, `more than its ${layers} layers`)
  const step = keys.whole(`${stack}_sparse_step`, sparse > 0 ? Math.floor(layers / sparse) : layers)
  return (index) => step === 1 || (step > 1 && index % step === 1)
}
