import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { type Checkpoint, openCheckpoint } from './checkpoint.ts'
import type { ModelConfig, Precision, Source, WeightMap } from './config.ts'
import { fileDigests } from './digest.ts'
import { bart } from './families/bart.ts'
import { type Family, familyNames } from './families/decoder.ts'
import { deepseek } from './families/deepseek.ts'
import { deepseek_v2 } from './families/deepseek_v2.ts'
import { deepseek_v3 } from './families/deepseek_v3.ts'
import { type Keys, readKeys } from './families/keys.ts'
import { marian } from './families/marian.ts'
import { mixtral } from './families/mixtral.ts'
import { nllb_moe } from './families/nllb_moe.ts'
import { olmoe } from './families/olmoe.ts'
import { qwen2_moe } from './families/qwen2_moe.ts'
import { qwen3_moe } from './families/qwen3_moe.ts'
import { switch_transformers } from './families/switch_transformers.ts'
import { t5 } from './families/t5.ts'
import { broken } from './header.ts'
import { expertTensors, layerTensors, modelTensors } from './tensors.ts'

/** How generation_config.json would have tokens drawn; what it leaves out is absent. */
export type Generation = { temperature?: number; topP?: number; topK?: number; doSample?: boolean }

export type Model = {
  dir: string
  /** The folder's own name. */
  name: string
  config: ModelConfig
  weights: WeightMap
  checkpoint: Checkpoint
  generation: Generation
  close(): Promise<void>
}

/** Part of every model hash: shards written in another format are never taken for these. */
export const SHARD_FORMAT = 2

const families: Record<(typeof familyNames)[number], Family> = {
  bart,
  deepseek,
  deepseek_v2,
  deepseek_v3,
  kimi_k2: deepseek_v3,
  marian,
  mixtral,
  'nllb-moe': nllb_moe,
  nllb_moe,
  olmoe,
  qwen2_moe,
  qwen3_moe,
  switch_transformers,
  t5,
}

/** Canonical form of a config.json: `holds` tells which tensors the checkpoint has. */
export const describeModel: Family = (keys, generation, holds) => {
  if (!keys.has('model_type')) throw keys.refuse('model_type', `but one of ${familyNames.join(', ')} is needed`)
  return families[keys.word('model_type', familyNames, familyNames[0])](keys, generation, holds)
}

/**
 * Opens a Hugging Face folder: config.json, generation_config.json where there is one, and safetensors. Every tensor
 * that the config calls for is looked up, its shape and dtype checked; no weights are read.
 * @throws MeshError FAILED_PRECONDITION naming the file, key or tensor at fault.
 */
export const openModel = async (dir: string): Promise<Model> => {
  const folder = resolve(dir)
  const { keys, generation } = await readFolder(folder)
  // Before the files are opened, so that an unsupported model is called that, and not a checkpoint that lacks files.
  describeModel(keys, generation, () => false)
  const checkpoint = await openCheckpoint(folder)
  try {
    const { config, weights } = describeModel(keys, generation, checkpoint.has)
    for (const source of sources(config, weights)) checkpoint.check(source)
    return {
      dir: folder,
      name: basename(folder),
      config,
      weights,
      checkpoint,
      generation: readGeneration(generation),
      close: checkpoint.close,
    }
  } catch (error) {
    await checkpoint.close()
    throw error
  }
}

/**
 * The canonical form of the config.json of a model, where the weights need not be there.
 * @throws MeshError FAILED_PRECONDITION naming the file or key at fault.
 */
export const readModelConfig = async (dir: string): Promise<{ name: string; config: ModelConfig }> => {
  const folder = resolve(dir)
  const { keys, generation } = await readFolder(folder)
  const name = basename(folder)
  const { config } = describeModel(keys, generation, () => false)
  return { name, config }
}

const readFolder = async (folder: string): Promise<{ keys: Keys; generation: Keys }> => {
  const keys = await readConfig(join(folder, 'config.json'))
  if (!keys) throw broken(`${folder} has no config.json; name the folder of a Hugging Face checkpoint`)
  const generation = await readConfig(join(folder, 'generation_config.json'))
  return { keys, generation: generation ?? readKeys({}, 'generation_config.json') }
}

/** Everything that a model reads from its checkpoint, in the order of layers. Tied tensors come twice. */
export function* sources(config: ModelConfig, weights: WeightMap): Generator<Source> {
  for (const name of modelTensors(config).keys()) yield weights.model(name)
  for (const [layer, { ffn }] of config.layers.entries()) {
    for (const name of layerTensors(config, layer).keys()) yield weights.layer(layer, name)
    if (ffn === 'dense') continue
    for (let expert = 0; expert < config.moe.experts; expert++)
      for (const name of expertTensors(config).keys()) yield weights.expert(layer, expert, name)
  }
}

const readConfig = async (path: string): Promise<Keys | null> => {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return null
    throw broken(`${path} cannot be read; check the folder's permissions`, cause)
  }
  try {
    return readKeys(JSON.parse(text), basename(path))
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    throw broken(`${path} is not JSON; download it again`, cause)
  }
}

const readGeneration = (keys: Keys): Generation => ({
  ...(keys.has('temperature') && { temperature: keys.number('temperature') }),
  ...(keys.has('top_p') && { topP: keys.number('top_p') }),
  ...(keys.has('top_k') && { topK: keys.whole('top_k') }),
  ...(keys.has('do_sample') && { doSample: keys.flag('do_sample', false) }),
})

/**
 * Names a model's bits: hex SHA-256 over config.json, the contents of the checkpoint's files, the precision and the
 * shard format. The files' digests are remembered in cacheDir.
 */
export const modelHash = async (model: Model, precision: Precision, cacheDir: string): Promise<string> => {
  const paths = [join(model.dir, 'config.json'), ...model.checkpoint.files]
  const digests = await fileDigests(paths, cacheDir)
  const lines = [
    `shard format ${SHARD_FORMAT}`,
    precision,
    ...paths.map((path, i) => `${basename(path)} ${digests[i]}`),
  ]
  return createHash('sha256').update(lines.join('\n')).digest('hex')
}
