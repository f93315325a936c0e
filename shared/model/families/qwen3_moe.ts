import { type Family, readBasics, readBias, readExperts, readGqa, readQwenLayers, readQwenWindows } from './decoder.ts'
import { hubWeights, plainNaming } from './names.ts'

/**
 * Qwen3-MoE (arXiv:2505.09388; transformers' modeling_qwen3_moe.py, which gives every layer the window where there is
 * one).
 */
export const qwen3_moe: Family = (keys, generation, holds) => {
  const experts = readExperts(keys, 'num_experts', 'moe_intermediate_size')
  const config = {
    ...readBasics(keys, generation, 1e-6),
    ...readGqa(keys, { theta: 10_000, bias: readBias(keys), qkNorm: 'head', clip: null }),
    denseWidth: keys.count('intermediate_size'),
    moe: {
      ...experts,
      router: {
        score: 'softmax' as const,
        bias: false,
        groups: null,
        renormalise: keys.flag('norm_topk_prob', false) ? { epsilon: 0 } : null,
        scale: 1,
        capacity: null,
      },
      sharedWidth: 0,
      sharedGate: false,
    },
    layers: readQwenLayers(
      keys,
      readQwenWindows(keys, () => true),
    ),
  }
  return { config, weights: hubWeights(config, holds, () => plainNaming) }
}
