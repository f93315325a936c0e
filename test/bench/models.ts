/** The models that are measured: the demo model of every clone, and a random one with the shapes of a real one. */
import { existsSync } from 'node:fs'
import { rename, rm, stat } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import type { ModelConfig, Precision } from '../../shared/model/config.ts'
import { convert } from '../../shared/model/convert.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { expertParts, gatewayParts, type Part, partGraph } from '../../shared/model/part.ts'
import { writeCheckpoint } from '../support/checkpoint.ts'
import { demo } from '../support/cluster.ts'
import type { GgmlType } from './gguf/blocks.ts'
import { writeDeepseek } from './gguf/deepseek.ts'
import { progress } from './say.ts'

/** A model whose shards are on disk, so that starting it costs what it costs from the second time on. */
export type Prepared = {
  name: string
  dir: string
  cacheDir: string
  precision: Precision
  hash: string
  config: ModelConfig
  /** Bytes of the shards that a gateway without experts maps, and of all experts. */
  gatewayShardBytes: number
  expertShardBytes: number
}

/** DeepSeekMoE-16B (arXiv:2401.06066, its config.json on the hub) with fewer layers and a vocabulary of 32,000. */
const config16b = (layers: number) => ({
  architectures: ['DeepseekForCausalLM'],
  model_type: 'deepseek',
  torch_dtype: 'bfloat16',
  vocab_size: 32_000,
  hidden_size: 2048,
  intermediate_size: 10_944,
  moe_intermediate_size: 1408,
  num_hidden_layers: layers,
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
})

/** Outside the repository: gigabytes that the next run uses again. */
export const benchFolder = join(process.env.EXPERTMESH_CACHE ?? join(homedir(), '.cache', 'expertmesh'), 'bench')

export const prepareDemo = (precision: Precision): Promise<Prepared> => prepare('demo model', demo, precision)

/** Bytes of weights that one decoded token needs: all of the gateway's but the embedding table, of which it needs a row, and its experts'. */
export const touchedBytes = ({ config, precision }: Prepared): number => {
  const own = gatewayParts(config).filter(({ kind }) => kind !== 'embed')
  const experts = config.layers.flatMap(({ ffn }, layer) =>
    ffn === 'sparse' ? [{ layer, experts: [...Array(config.moe.topK).keys()] }] : [],
  )
  const parts = [...own, ...expertParts(experts)]
  return parts.reduce((sum, part) => sum + partGraph(config, part, precision).shardBytes, 0)
}

/** Writes the checkpoint where it is not there yet: bf16, about 1.2 GB per sparse layer. */
export const prepare16b = (layers: number, precision: Precision): Promise<Prepared> =>
  prepareRandom(
    `DeepSeekMoE-16B shapes, ${layers} layers`,
    `deepseek-16b-${layers}-layers`,
    config16b(layers),
    precision,
  )

/** Every part of the 16B model and none of its size; fp32 on both sides of a comparison has its ids differ only where the models do. */
export const prepareSmall = (precision: Precision): Promise<Prepared> => {
  const sizes = { vocab_size: 512, hidden_size: 128, intermediate_size: 256, moe_intermediate_size: 64 }
  const counts = { num_hidden_layers: 3, num_attention_heads: 4, num_key_value_heads: 4, n_routed_experts: 16 }
  const config = { ...config16b(3), ...sizes, ...counts, max_position_embeddings: 512 }
  return prepareRandom('a small model of the same kind', 'deepseek-small', config, precision)
}

/** The width of the 16B model around experts that compute next to nothing, in one layer behind a dense one. */
export const prepareEmpty = (precision: Precision): Promise<Prepared> => {
  const sizes = { vocab_size: 512, intermediate_size: 64, moe_intermediate_size: 16 }
  return prepareRandom('experts of width 16', 'deepseek-empty', { ...config16b(2), ...sizes }, precision)
}

/** One sparse layer of so many experts of the 16B model's, behind a dense layer. */
export const prepareWide = (experts: number): Promise<Prepared> =>
  prepareRandom(
    `${experts} experts`,
    `deepseek-${experts}-experts`,
    { ...config16b(2), n_routed_experts: experts },
    'int8',
  )

/** The random model of that config in a folder of that name, written where it is not there yet. */
export const prepareRandom = async (
  name: string,
  folder: string,
  config: Record<string, unknown>,
  precision: Precision,
): Promise<Prepared> => {
  const dir = join(benchFolder, folder)
  if (!existsSync(dir)) {
    const unfinished = `${dir}.${process.pid}`
    const end = progress(`${name}: random weights`, () => written(join(unfinished, 'model.safetensors')))
    try {
      await writeCheckpoint(unfinished, config, { seed: 1, dtype: 'BF16' })
      await rename(unfinished, dir)
    } finally {
      end()
      await rm(unfinished, { recursive: true, force: true })
    }
  }
  return prepare(name, dir, precision)
}

/** The same weights as a GGUF file beside the checkpoint, written where it is not there yet. */
export const prepareGguf = async ({ name, dir }: Prepared, type: GgmlType): Promise<string> => {
  const path = `${dir}.${type.toLowerCase()}.gguf`
  if (existsSync(path)) return path
  const unfinished = `${path}.${process.pid}`
  const end = progress(`${name}: the same weights in ${type}`, () => written(unfinished))
  try {
    await writeDeepseek(dir, unfinished, type)
    await rename(unfinished, path)
  } finally {
    end()
    await rm(unfinished, { force: true })
  }
  return path
}

const written = async (path: string): Promise<string> => {
  const { size } = await stat(path).catch(() => ({ size: 0 }))
  return `${(size / 1e9).toFixed(1)} GB written to ${dirname(path)}`
}

const prepare = async (name: string, dir: string, precision: Precision): Promise<Prepared> => {
  const cacheDir = join(benchFolder, 'cache')
  const model = await openModel(dir)
  const { config } = model
  let doing = 'hashing the checkpoint'
  const end = progress(name, async () => doing)
  try {
    const hash = await modelHash(model, precision, cacheDir)
    const own = gatewayParts(config)
    const experts = expertParts(
      config.layers.flatMap(({ ffn }, layer) =>
        ffn === 'sparse' ? [{ layer, experts: [...Array(config.moe.experts).keys()] }] : [],
      ),
    )
    const onProgress = (done: number, total: number): void => {
      doing = `converting to ${precision}: ${done} of ${total} parts`
    }
    await convert({ modelDir: dir, cacheDir, precision, parts: [...own, ...experts] }, { onProgress })
    const bytes = (parts: readonly Part[]): number =>
      parts.reduce((sum, part) => sum + partGraph(config, part, precision).shardBytes, 0)
    const [gatewayShardBytes, expertShardBytes] = [bytes(own), bytes(experts)]
    return { name, dir, cacheDir, precision, hash, config, gatewayShardBytes, expertShardBytes }
  } finally {
    end()
    await model.close()
  }
}
