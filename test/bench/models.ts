import { existsSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { packageRoot } from '../../shared/root.ts'
import { writeCheckpoint } from '../support/checkpoint.ts'

/** Outside the repository: gigabytes that the next run uses again. */
export const benchFolder = join(process.env.EXPERTMESH_CACHE ?? join(homedir(), '.cache', 'expertmesh'), 'bench')

export const demoModel = join(packageRoot, 'models', 'demo')

/** DeepSeekMoE-16B's shapes (arXiv:2401.06066 table 1) with fewer layers and a smaller vocabulary, the first layer dense. */
const shapes = {
  architectures: ['DeepseekForCausalLM'],
  model_type: 'deepseek',
  vocab_size: 32_000,
  hidden_size: 2048,
  intermediate_size: 10_944,
  moe_intermediate_size: 1408,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  n_shared_experts: 2,
  n_routed_experts: 64,
  num_experts_per_tok: 6,
  moe_layer_freq: 1,
  first_k_dense_replace: 1,
  norm_topk_prob: false,
  scoring_func: 'softmax',
  hidden_act: 'silu',
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  rope_scaling: null,
  attention_bias: false,
  tie_word_embeddings: false,
  bos_token_id: 0,
  eos_token_id: 1,
}

/** The folder of the random 16B-shaped model, written once: 1 GB a layer. */
export const largeModel = async (layers: number): Promise<string> => {
  const dir = join(benchFolder, `deepseek-16b-${layers}-layers`)
  if (existsSync(dir)) return dir
  console.error(`writing ${dir}: about ${layers} GB, once`)
  const unfinished = `${dir}.${process.pid}`
  await writeCheckpoint(unfinished, { ...shapes, num_hidden_layers: layers }, { seed: 1, dtype: 'BF16' })
  await rename(unfinished, dir)
  return dir
}
