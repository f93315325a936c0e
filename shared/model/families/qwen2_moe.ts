import { type Family, readBasics, readExperts, readGqa, readQwenLayers, readQwenWindows } from './decoder.ts'
import { hubWeights, plainNaming } from './names.ts'

/** Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671; transformers' modeling_qwen2_moe.py): a gated shared expert. */
export const qwen2_moe: Family = (keys, generation, holds) => {
  const experts = readExperts(keys, 'num_experts', 'moe_intermediate_size')
  const qkv = keys.flag('qkv_bias', true)
  const windowed = keys.whole('max_window_layers', 28)
  const config = {
    ...readBasics(keys, generation, 1e-6),
    ...readGqa(keys, { theta: 10_000, bias: { q: qkv, k: qkv, v: qkv, o: false }, qkNorm: 'none', clip: null }),
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
      sharedWidth: keys.count('shared_expert_intermediate_size'),
      sharedGate: true,
    },
    layers: readQwenLayers(
      keys,
      readQwenWindows(keys, (layer) => layer % 2 === 0 && layer < windowed),
    ),
  }
  return { config, weights: hubWeights(config, holds, () => ({ ...plainNaming, shared: 'shared_expert' })) }
}
