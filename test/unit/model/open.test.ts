import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Model, openModel, sources } from '../../../shared/model/open.ts'
import { type WriteOptions, writeCheckpoint } from '../../support/checkpoint.ts'
import { type FamilyName, tinyConfigs } from '../../support/configs.ts'
import { describeGolden, golden } from '../../support/goldens.ts'

let root: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'open-'))
})
afterAll(() => rm(root, { recursive: true }))

const names = Object.keys(tinyConfigs) as FamilyName[]

const write = async (config: Record<string, unknown>, options: WriteOptions = {}): Promise<string> => {
  const dir = await mkdtemp(join(root, 'model-'))
  await writeCheckpoint(dir, config, options)
  return dir
}

/** Every tensor that the model reads, as bytes, in canonical order. */
const contents = async ({ config, weights, checkpoint }: Model): Promise<Buffer> => {
  const read: Buffer[] = []
  for (const source of sources(config, weights)) {
    const values = await checkpoint.read(source)
    const rows = source.rows
      ? source.rows.end - source.rows.begin
      : source.shape.slice(0, -1).reduce((a, b) => a * b, 1)
    expect(values.length).toBe(rows * source.shape.at(-1)!)
    read.push(Buffer.from(values.buffer))
  }
  return Buffer.concat(read)
}

const contentsOf = async (dir: string): Promise<Buffer> => {
  const model = await openModel(dir)
  const all = await contents(model)
  await model.close()
  return all
}

const goldens = [
  'deepseek',
  'deepseek_v2',
  'deepseek_v2_yarn',
  'deepseek_v3',
  'deepseek_v3_yarn',
  'mixtral',
  'qwen2_moe',
  'qwen3_moe',
  'olmoe',
]
for (const name of goldens)
  describeGolden(name, () => {
    it('opens, and every one of its tensors is read', async () => {
      const model = await openModel(golden(name).dir)
      const all = await contents(model)
      const used = new Set([...sources(model.config, model.weights)].map((source) => source.name))
      expect([...used].sort()).toEqual([...model.checkpoint.names].sort())
      expect(new Float32Array(all.buffer, all.byteOffset, all.length / 4).every(Number.isFinite)).toBe(true)
      await model.close()
    })
  })

describeGolden('deepseek', () => {
  it('gives the numbers that a plain reader finds', async () => {
    const { dir } = golden('deepseek')
    const file = await readFile(join(dir, 'model.safetensors'))
    const headerBytes = Number(file.readBigUInt64LE())
    const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes))
    const plain = (name: string, index: number) =>
      file.readFloatLE(8 + headerBytes + header[name].data_offsets[0] + 4 * index)
    const { weights, checkpoint, close } = await openModel(dir)
    const embed = await checkpoint.read(weights.model('embed'))
    const down = await checkpoint.read(weights.expert(3, 15, 'down'))
    const router = await checkpoint.read(weights.layer(2, 'router'))
    for (const i of [0, 1, 77, 500]) {
      expect(embed[i]).toBe(plain('model.embed_tokens.weight', i))
      expect(down[i]).toBe(plain('model.layers.3.mlp.experts.15.down_proj.weight', i))
      expect(router[i]).toBe(plain('model.layers.2.mlp.gate.weight', i))
    }
    await close()
  })
})

describe('the same weights come out', () => {
  it.each(names)('of %s with experts one by one, fused, and in four files', async (name) => {
    const plain = await contentsOf(await write(tinyConfigs[name], { seed: 3 }))
    expect(plain.equals(await contentsOf(await write(tinyConfigs[name], { seed: 3, layout: 'fused' })))).toBe(true)
    const sharded = await write(tinyConfigs[name], { seed: 3, shards: 4 })
    expect((await readdir(sharded)).filter((file) => file.endsWith('.safetensors'))).toHaveLength(4)
    expect(plain.equals(await contentsOf(sharded))).toBe(true)
    expect(plain.equals(await contentsOf(await write(tinyConfigs[name], { seed: 4 })))).toBe(false)
  })

  it('in BF16 and F16, to their precision', async () => {
    const read = async (dtype: 'F32' | 'BF16' | 'F16') => {
      const all = await contentsOf(await write(tinyConfigs.deepseek_v3, { dtype }))
      return new Float32Array(all.buffer, all.byteOffset, all.length / 4)
    }
    const exact = await read('F32')
    for (const [dtype, bits] of [
      ['BF16', 8],
      ['F16', 11],
    ] as const) {
      const rounded = await read(dtype)
      expect(rounded.length).toBe(exact.length)
      expect(rounded.every((x, i) => Math.abs(x - exact[i]) <= Math.abs(exact[i]) * 2 ** -bits + 2 ** -25)).toBe(true)
      expect(rounded.some((x, i) => x !== exact[i])).toBe(true)
    }
  })
})

it.each(['experts', 'fused'] as const)('an fp8 checkpoint opens and reads as finite weights, %s', async (layout) => {
  const config = { ...tinyConfigs.deepseek_v3, hidden_size: 192, moe_intermediate_size: 160 }
  const model = await openModel(await write(config, { dtype: 'F8_E4M3', layout, scale: 0.1 }))
  const weights = await model.checkpoint.read(model.weights.expert(1, 3, 'up'))
  const deviation = Math.sqrt(weights.reduce((sum, x) => sum + x * x, 0) / weights.length)
  expect(deviation).toBeGreaterThan(0.07)
  expect(deviation).toBeLessThan(0.15)
  expect(model.checkpoint.bytes(model.weights.expert(1, 3, 'up'))).toBe(160 * 192)
  await contents(model)
  await model.close()
})

it('layers for multi-token prediction, and whatever else is stored, are let lie', async () => {
  const longer = await write({ ...tinyConfigs.deepseek_v3, num_hidden_layers: 4 })
  await writeFile(join(longer, 'config.json'), JSON.stringify(tinyConfigs.deepseek_v3))
  const model = await openModel(longer)
  expect(model.config.layers).toHaveLength(3)
  expect(model.checkpoint.has('model.layers.3.input_layernorm.weight')).toBe(true)
  await model.close()
})

it('a model has its folder’s name and the settings of generation_config.json', async () => {
  const dir = await write(tinyConfigs.mixtral)
  const settings = {
    temperature: 0.6,
    top_p: 0.95,
    top_k: 20,
    do_sample: true,
    eos_token_id: [3, 4],
    transformers_version: '5',
  }
  const plain = await openModel(dir)
  expect(plain.generation).toEqual({})
  await writeFile(join(dir, 'generation_config.json'), JSON.stringify(settings))
  const model = await openModel(dir)
  expect(model).toMatchObject({
    dir,
    generation: { temperature: 0.6, topP: 0.95, topK: 20, doSample: true },
    config: { eos: [3, 4] },
  })
  expect(dir.endsWith(model.name)).toBe(true)
  await plain.close()
  await model.close()
})

describe('a folder that does not fit its config.json is refused before anything runs', () => {
  const fresh = (options: WriteOptions = {}) => write(tinyConfigs.deepseek, options)
  const edit = async (dir: string, file: string, change: (text: string) => string): Promise<void> => {
    const path = join(dir, file)
    await writeFile(path, change(await readFile(path, 'latin1')), 'latin1')
  }

  it.each<[string, (dir: string) => Promise<unknown>, RegExp]>([
    ['no config.json', (dir) => rm(join(dir, 'config.json')), /has no config\.json/],
    ['a config.json that is not JSON', (dir) => writeFile(join(dir, 'config.json'), '{'), /config\.json is not JSON/],
    [
      'a config.json that is a list',
      (dir) => writeFile(join(dir, 'config.json'), '[]'),
      /config\.json is not a JSON object/,
    ],
    [
      'a generation_config.json that is not JSON',
      (dir) => writeFile(join(dir, 'generation_config.json'), ''),
      /generation_config\.json is not JSON/,
    ],
    [
      'a bad generation setting',
      (dir) => writeFile(join(dir, 'generation_config.json'), '{"top_k":-1}'),
      /generation_config\.json has top_k -1/,
    ],
    ['no weights', (dir) => rm(join(dir, 'model.safetensors')), /neither model\.safetensors/],
    ['weights cut short', (dir) => truncate(join(dir, 'model.safetensors'), 5000), /cut short/],
    [
      'an expert under another name',
      (dir) => edit(dir, 'model.safetensors', (text) => text.replace('experts.7.up_proj', 'experts.9.up_proj')),
      /lacks tensor model\.layers\.1\.mlp\.experts\.7\.up_proj\.weight \[40, 64\]/,
    ],
    [
      'another width',
      (dir) =>
        edit(dir, 'config.json', (text) => text.replace('"moe_intermediate_size": 40', '"moe_intermediate_size": 41')),
      /tensor model\.layers\.1\.mlp\.shared_experts\.gate_proj\.weight .*\[80, 64\].*\[82, 64\]/,
    ],
    [
      'whole numbers as weights',
      (dir) =>
        edit(dir, 'model.safetensors', (text) =>
          text.replace('"model.norm.weight":{"dtype":"F32"', '"model.norm.weight":{"dtype":"I32"'),
        ),
      /tensor model\.norm\.weight .*is I32/,
    ],
  ])('%s', async (_, damage, message) => {
    const dir = await fresh()
    await damage(dir)
    const opening = openModel(dir)
    await expect(opening).rejects.toThrow(message)
    await expect(opening).rejects.toMatchObject({ name: 'MeshError', code: 9 })
  })

  it('a tensor’s file that is missing', async () => {
    const dir = await fresh({ shards: 2 })
    await rm(join(dir, 'model-00002-of-00002.safetensors'))
    await expect(openModel(dir)).rejects.toThrow(/model-00002-of-00002\.safetensors, which is missing/)
  })

  it('an unsupported model, although its weights are missing too', async () => {
    const dir = await fresh()
    await rm(join(dir, 'model.safetensors'))
    await edit(dir, 'config.json', (text) => text.replace('"deepseek"', '"gpt_oss"'))
    await expect(openModel(dir)).rejects.toThrow(/model_type "gpt_oss"/)
  })
})

it('random weights of a big matrix have the deviation asked for', async () => {
  const model = await openModel(
    await write({ ...tinyConfigs.mixtral, vocab_size: 4096 }, { scale: 0.05, dtype: 'BF16' }),
  )
  const embed = await model.checkpoint.read(model.weights.model('embed'))
  const deviation = Math.sqrt(embed.reduce((sum, x) => sum + x * x, 0) / embed.length)
  expect(deviation).toBeCloseTo(0.05, 3)
  await model.close()
})
