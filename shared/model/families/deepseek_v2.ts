import { type Family, readBasics, readDeepseekLayers, readExperts, readGroups, readMla } from './decoder.ts'
import { hubWeights, plainNaming } from './names.ts'

/**
 * DeepSeek-V2 (arXiv:2405.04434; modeling_deepseek.py of DeepSeek-V2, which honours moe_layer_freq where transformers
 * does not).
 */
export const deepseek_v2: Family = (keys, generation, holds) => {
  keys.word('scoring_func', ['softmax'], 'softmax')
  if (keys.flag('norm_topk_prob', false))
    throw keys.refuse(
      'norm_topk_prob',
      'on which DeepSeek’s code and transformers disagree for deepseek_v2; only false is supported',
    )
  const method = keys.word('topk_method', ['greedy', 'group_limited_greedy'], 'greedy')
  const experts = readExperts(keys, 'n_routed_experts', 'moe_intermediate_size')
  const config = {
    ...readBasics(keys, generation, 1e-6),
    ...readMla(keys, 'interleaved'),
    denseWidth: keys.count('intermediate_size'),
    moe: {
      ...experts,
      router: {
        score: 'softmax' as const,
        bias: false,
        groups: method === 'greedy' ? null : readGroups(keys, 'max', experts),
        renormalise: null,
        scale: keys.number('routed_scaling_factor', 1),
        capacity: null,
      },
      sharedWidth: keys.whole('n_shared_experts', 0) * experts.width,
      sharedGate: false,
    },
    layers: readDeepseekLayers(keys),
  }
  return { config, weights: hubWeights(config, holds, () => plainNaming) }
}
