import assert from 'node:assert/strict'
import type { ExpertTensor, LayerTensor, ModelConfig, ModelTensor, Source, WeightMap } from '../config.ts'
import { expertTensors, layerTensors, modelTensors } from '../tensors.ts'

/** Whether a checkpoint holds a tensor of that name; tells one layout from another. */
export type Holds = (name: string) => boolean

/** How a family names the tensors of its sparse layers, below model.layers.N. */
export type Naming = {
  /** The block that holds gate and experts: mlp or block_sparse_moe. */
  block: string
  /** The shared experts inside the block. */
  shared: string
  /** One routed expert's matrices. */
  expert: Partial<Record<ExpertTensor, string>>
}

export const plainNaming: Naming = {
  block: 'mlp',
  shared: 'shared_experts',
  expert: { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' },
}

/** Names below model.layers.N that every family of this kind uses. */
const common: Partial<Record<LayerTensor, string>> = {
  'attention.norm': 'input_layernorm.weight',
  'attention.q': 'self_attn.q_proj.weight',
  'attention.q.bias': 'self_attn.q_proj.bias',
  'attention.k': 'self_attn.k_proj.weight',
  'attention.k.bias': 'self_attn.k_proj.bias',
  'attention.v': 'self_attn.v_proj.weight',
  'attention.v.bias': 'self_attn.v_proj.bias',
  'attention.o': 'self_attn.o_proj.weight',
  'attention.o.bias': 'self_attn.o_proj.bias',
  'attention.q.norm': 'self_attn.q_norm.weight',
  'attention.k.norm': 'self_attn.k_norm.weight',
  'attention.q.a': 'self_attn.q_a_proj.weight',
  'attention.q.a.bias': 'self_attn.q_a_proj.bias',
  'attention.q.a.norm': 'self_attn.q_a_layernorm.weight',
  'attention.q.b': 'self_attn.q_b_proj.weight',
  'attention.kv.a': 'self_attn.kv_a_proj_with_mqa.weight',
  'attention.kv.a.bias': 'self_attn.kv_a_proj_with_mqa.bias',
  'attention.kv.a.norm': 'self_attn.kv_a_layernorm.weight',
  'attention.kv.b': 'self_attn.kv_b_proj.weight',
  'ffn.norm': 'post_attention_layernorm.weight',
}

/**
 * The weight map of a decoder with hub names. Routed experts may lie one by one, as on the hub, or fused as
 * transformers 5 keeps them: experts.gate_up_proj [E, 2I, H] (gate above up) and experts.down_proj [E, H, I]. Each
 * layer is looked at by itself.
 */
export const hubWeights = (config: ModelConfig, holds: Holds, naming: (layer: number) => Naming): WeightMap => {
  const { experts, width } = config.moe
  const ofModel = modelTensors(config)
  const ofExpert = expertTensors(config)
  const ofLayer = config.layers.map((_, layer) => layerTensors(config, layer))
  const modelNames: Partial<Record<ModelTensor, string>> = {
    embed: 'model.embed_tokens.weight',
    norm: 'model.norm.weight',
    head: 'lm_head.weight',
  }

  const ffnName = (layer: number, name: LayerTensor): string => {
    const { block, shared } = naming(layer)
    // A dense layer's FFN is called mlp in every family, whatever the sparse layers call their block.
    const ffn = config.layers[layer].ffn === 'dense' ? 'mlp' : `${block}.${shared}`
    const names: Partial<Record<LayerTensor, string>> = {
      'shared.gate': `${ffn}.gate_proj.weight`,
      'shared.up': `${ffn}.up_proj.weight`,
      'shared.down': `${ffn}.down_proj.weight`,
      'shared.router': `${block}.${shared}_gate.weight`,
      router: `${block}.gate.weight`,
      'router.bias': `${block}.gate.e_score_correction_bias`,
    }
    return names[name]!
  }

  const fusedSource = (prefix: string, expert: number, name: ExpertTensor): Source => {
    if (name === 'down') {
      const rows = { begin: expert * config.hidden, end: (expert + 1) * config.hidden }
      return { name: `${prefix}.down_proj`, shape: [experts, config.hidden, width], rows }
    }
    const begin = (2 * expert + (name === 'up' ? 1 : 0)) * width
    return {
      name: `${prefix}.gate_up_proj`,
      shape: [experts, 2 * width, config.hidden],
      rows: { begin, end: begin + width },
    }
  }

  return {
    model: (name) => ({
      name: modelNames[name === 'head' && config.tied ? 'embed' : name]!,
      shape: ofModel.get(name)!,
    }),
    layer: (layer, name) => {
      const shape = ofLayer[layer]?.get(name)
      assert(shape, `layer ${layer} has no tensor ${name}`)
      return { name: `model.layers.${layer}.${common[name] ?? ffnName(layer, name)}`, shape }
    },
    expert: (layer, expert, name) => {
      assert(
        config.layers[layer]?.ffn === 'sparse' && expert >= 0 && expert < experts,
        `layer ${layer} has no expert ${expert}`,
      )
      const { block, expert: names } = naming(layer)
      const prefix = `model.layers.${layer}.${block}.experts`
      if (holds(`${prefix}.gate_up_proj`)) return fusedSource(prefix, expert, name)
      return { name: `${prefix}.${expert}.${names[name]}.weight`, shape: ofExpert.get(name)! }
    },
  }
}
