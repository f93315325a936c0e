import { type Family, readBasics, readDeepseekLayers, readExperts, readGroups, readMla } from './decoder.ts'
import { hubWeights, plainNaming } from './names.ts'

/**
 * DeepSeek-V3 (arXiv:2412.19437), R1, Moonlight and Kimi K2. The layers for multi-token prediction, stored after the
 * last of num_hidden_layers, are not read.
 */
export const deepseek_v3: Family = (keys, generation, holds) => {
  keys.word('scoring_func', ['sigmoid'], 'sigmoid')
  keys.word('topk_method', ['noaux_tc'], 'noaux_tc')
  const experts = readExperts(keys, 'n_routed_experts', 'moe_intermediate_size')
  const config = {
    ...readBasics(keys, generation, 1e-6),
    ...readMla(keys, keys.flag('rope_interleave', true) ? 'interleaved' : 'half'),
    denseWidth: keys.count('intermediate_size'),
    moe: {
      ...experts,
      router: {
        score: 'sigmoid' as const,
        bias: true,
        groups: readGroups(keys, 'top2', experts),
        renormalise: keys.flag('norm_topk_prob', true) ? { epsilon: 1e-20 } : null,
        scale: keys.number('routed_scaling_factor', 2.5),
        capacity: null,
      },
      sharedWidth: keys.whole('n_shared_experts', 1) * experts.width,
      sharedGate: false,
    },
    layers: readDeepseekLayers(keys),
  }
  return { config, weights: hubWeights(config, holds, () => plainNaming) }
}
