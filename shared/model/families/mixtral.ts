import { type Family, readBasics, readExperts, readGqa } from './decoder.ts'
import { hubWeights, type Naming, plainNaming } from './names.ts'

const hub: Naming = { block: 'block_sparse_moe', shared: '', expert: { gate: 'w1', up: 'w3', down: 'w2' } }

/** Mixtral (arXiv:2401.04088). transformers 5 calls the block mlp; the hub's checkpoints, block_sparse_moe. */
export const mixtral: Family = (keys, generation, holds) => {
  const window = keys.has('sliding_window') ? keys.count('sliding_window') : null
  const experts = readExperts(keys, 'num_local_experts', 'intermediate_size')
  const bias = { q: false, k: false, v: false, o: false }
  const config = {
    ...readBasics(keys, generation, 1e-5),
    ...readGqa(keys, { theta: 1e6, bias, qkNorm: 'none', clip: null }),
    denseWidth: experts.width,
    moe: {
      ...experts,
      router: {
        score: 'softmax' as const,
        bias: false,
        groups: null,
        renormalise: { epsilon: 0 },
        scale: 1,
        capacity: null,
      },
      sharedWidth: 0,
      sharedGate: false,
    },
    layers: Array.from({ length: keys.count('num_hidden_layers') }, () => ({ ffn: 'sparse' as const, window })),
  }
  const naming = (layer: number): Naming => {
    const block = `model.layers.${layer}.mlp`
    if (!holds(`${block}.gate.weight`)) return hub
    return { ...plainNaming, expert: holds(`${block}.experts.0.w1.weight`) ? hub.expert : plainNaming.expert }
  }
  return { config, weights: hubWeights(config, holds, naming) }
}
