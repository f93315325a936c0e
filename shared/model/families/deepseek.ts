import { type Family, readBasics, readBias, readDeepseekLayers, readExperts, readGqa } from './decoder.ts'
import { hubWeights, plainNaming } from './names.ts'

/** DeepSeekMoE (arXiv:2401.06066; modeling_deepseek.py of deepseek-moe-16b). */
export const deepseek: Family = (keys, generation, holds) => {
  keys.word('scoring_func', ['softmax'], 'softmax')
  const experts = readExperts(keys, 'n_routed_experts', 'moe_intermediate_size')
  const config = {
    ...readBasics(keys, generation, 1e-6),
    ...readGqa(keys, { theta: 10_000, bias: readBias(keys), qkNorm: 'none', clip: null }),
    denseWidth: keys.count('intermediate_size'),
    moe: {
      ...experts,
      router: {
        score: 'softmax' as const,
        bias: false,
        groups: null,
        renormalise: keys.flag('norm_topk_prob', false) && experts.topK > 1 ? { epsilon: 1e-20 } : null,
        scale: 1,
        capacity: null,
      },
      sharedWidth: keys.whole('n_shared_experts', 0) * experts.width,
      sharedGate: false,
    },
    layers: readDeepseekLayers(keys),
  }
  return { config, weights: hubWeights(config, holds, () => plainNaming) }
}
