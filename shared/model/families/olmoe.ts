import { type Family, readBasics, readBias, readExperts, readGqa } from './decoder.ts'
import { hubWeights, plainNaming } from './names.ts'

/** OLMoE (arXiv:2409.02060; transformers' modeling_olmoe.py). */
export const olmoe: Family = (keys, generation, holds) => {
  const clip = keys.has('clip_qkv') ? keys.number('clip_qkv') : null
  if (clip !== null && clip <= 0) throw keys.refuse('clip_qkv', 'but a number above 0 is needed')
  const experts = readExperts(keys, 'num_experts', 'intermediate_size')
  const config = {
    ...readBasics(keys, generation, 1e-5),
    ...readGqa(keys, { theta: 10_000, bias: readBias(keys), qkNorm: 'full', clip }),
    denseWidth: experts.width,
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
    layers: Array.from({ length: keys.count('num_hidden_layers') }, () => ({ ffn: 'sparse' as const, window: null })),
  }
  return { config, weights: hubWeights(config, holds, () => plainNaming) }
}
