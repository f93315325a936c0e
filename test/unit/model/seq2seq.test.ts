import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { ModelConfig } from '../../../shared/model/config.ts'
import { readKeys } from '../../../shared/model/families/keys.ts'
import { describeModel, openModel, sources } from '../../../shared/model/open.ts'
import { writeCheckpoint } from '../../support/checkpoint.ts'
import { type Seq2seqName, seq2seqConfigs } from '../../support/configs.ts'
import { describeGolden, golden } from '../../support/goldens.ts'

type Raw = Record<string, unknown>

const describeTiny = (family: Seq2seqName, more: Raw = {}, generation: Raw = {}, held: readonly string[] = []) =>
  describeModel(
    readKeys({ ...seq2seqConfigs[family], ...more }, 'config.json'),
    readKeys(generation, 'generation_config.json'),
    (name) => held.includes(name),
  )
const configOf = (family: Seq2seqName, more: Raw = {}, generation: Raw = {}): ModelConfig =>
  describeTiny(family, more, generation).config

const names = Object.keys(seq2seqConfigs) as Seq2seqName[]
const kinds = ({ layers }: ModelConfig): string => layers.map(({ ffn }) => ffn[0]).join('')

describe('an encoder–decoder', () => {
  it('is a combination of the axes that decoders have', () => {
    const axes = Object.fromEntries(
      names.map((name) => {
        const { norm, positions, embedding, ffn, head, tied } = configOf(name)
        const act = `${ffn.gated ? 'gated ' : ''}${ffn.activation}${ffn.bias ? ' +bias' : ''}`
        const scales = [embedding.scale, head.scale].join(' ')
        return [name, [norm.placement, norm.kind, positions.kind, act, scales, embedding.norm, tied].join(', ')]
      }),
    )
    expect(axes).toEqual({
      bart: 'post, layer, learned, gelu +bias, 1 1, true, true',
      marian: 'post, layer, sinusoidal, silu +bias, 8 1, false, true',
      'nllb-moe': 'pre, layer, sinusoidal, relu +bias, 8 1, false, true',
      switch_transformers: 'pre, rms, relative, relu, 1 0.125, false, true',
      t5: 'pre, rms, relative, relu, 1 0.125, false, true',
      't5 1.1': 'pre, rms, relative, gated gelu_tanh, 1 1, false, false',
    })
  })

  it('numbers its layers from the encoder’s first to the decoder’s last', () => {
    const layers = Object.fromEntries(names.map((name) => [name, configOf(name).encoder?.layers]))
    expect(layers).toEqual({ bart: 2, marian: 2, 'nllb-moe': 4, switch_transformers: 4, t5: 2, 't5 1.1': 2 })
    expect(kinds(configOf('t5', { num_decoder_layers: null }))).toBe('dddd')
    expect(describeTiny('bart').weights.layer(2, 'cross.q').name).toBe(
      'model.decoder.layers.0.encoder_attn.q_proj.weight',
    )
    expect(() => describeTiny('bart').weights.layer(1, 'cross.q')).toThrow(/layer 1 has no tensor cross\.q/)
  })

  it('knows what its output begins with, what is forced, and what never comes', () => {
    expect(configOf('bart')).toMatchObject({
      eos: [2],
      encoder: { start: 2, forcedFirst: 0, forcedLast: { id: 2, ends: true }, suppressed: [], suppressedFirst: [] },
    })
    expect(configOf('marian').encoder).toMatchObject({
      start: 127,
      forcedFirst: null,
      forcedLast: { id: 0, ends: true },
      suppressed: [127],
    })
    expect(configOf('marian', { bad_words_ids: [[0], [127]] }).encoder?.suppressed).toEqual([127])
    expect(configOf('marian', {}, { eos_token_id: 5 }).encoder?.forcedLast).toEqual({ id: 0, ends: false })
    const generation = {
      decoder_start_token_id: [4],
      forced_bos_token_id: 9,
      suppress_tokens: [5, 6],
      begin_suppress_tokens: [7],
      bad_words_ids: [[8]],
    }
    expect(configOf('marian', {}, generation).encoder).toMatchObject({
      start: 4,
      forcedFirst: 9,
      forcedLast: { id: 0, ends: true },
      suppressed: [5, 6, 8],
      suppressedFirst: [7],
    })
  })

  it('has positions where its family begins to count', () => {
    expect(configOf('marian').positions).toEqual({ kind: 'sinusoidal', first: 0, divisor: 32 })
    expect(configOf('nllb-moe').positions).toEqual({ kind: 'sinusoidal', first: 2, divisor: 31 })
    expect(configOf('nllb-moe', { pad_token_id: 3 }).positions).toMatchObject({ first: 4 })
    expect(configOf('bart').positions).toEqual({ kind: 'learned', first: 2, rows: 66 })
    expect(configOf('t5').positions).toEqual({ kind: 'relative', buckets: 8, maxDistance: 20 })
  })

  it('scales tied logits in T5 unless scale_decoder_outputs says otherwise, and embeddings where scale_embedding does', () => {
    expect(configOf('t5', { scale_decoder_outputs: false }).head.scale).toBe(1)
    expect(configOf('t5 1.1', { scale_decoder_outputs: true }).head.scale).toBe(0.125)
    expect(configOf('t5').attention.scale).toBe(1)
    expect(configOf('marian', { scale_embedding: null }).embedding.scale).toBe(1)
    expect(configOf('nllb-moe', { scale_embedding: null }).embedding.scale).toBe(8)
    expect(configOf('bart', { scale_embedding: true }).embedding.scale).toBe(8)
  })

  it.each([
    ['relu', 'relu', false],
    ['gelu', 'gelu', false],
    ['gelu_new', 'gelu_tanh', false],
    ['gated-gelu', 'gelu_tanh', true],
    ['gated-silu', 'silu', true],
    [null, 'relu', false],
  ])('T5’s feed_forward_proj %s is %s, gated %s', (feed_forward_proj, activation, gated) => {
    expect(configOf('t5', { feed_forward_proj }).ffn).toEqual({ activation, gated, bias: false })
  })
})

describe('experts of an encoder–decoder', () => {
  it('lie in the layers that the family’s rule picks, in each stack by its own step', () => {
    expect(kinds(configOf('nllb-moe'))).toBe('dsds' + 'ddds')
    expect(kinds(configOf('nllb-moe', { encoder_sparse_step: 0, decoder_sparse_step: 1 }))).toBe('dddd' + 'ssss')
    expect(kinds(configOf('switch_transformers'))).toBe('dsds' + 'sss')
    expect(kinds(configOf('switch_transformers', { encoder_sparse_step: 3, decoder_sparse_step: 0 }))).toBe(
      'dsdd' + 'ddd',
    )
  })

  it('drop by capacity', () => {
    expect(configOf('switch_transformers').moe).toMatchObject({
      topK: 1,
      router: { renormalise: null, scale: 1, capacity: { limit: { rows: 2 }, dropFirst: false } },
    })
    const nllb = (more: Raw) => configOf('nllb-moe', more).moe
    expect(nllb({})).toMatchObject({
      topK: 2,
      router: { renormalise: { epsilon: 0 }, scale: 0.8, capacity: { limit: { share: 0.4 }, dropFirst: true } },
    })
    const more = { moe_eval_capacity_token_fraction: -1, normalize_router_prob_before_dropping: true }
    expect(nllb({ ...more, expert_capacity: 5 }).router.capacity).toEqual({ limit: { rows: 5 }, dropFirst: false })
    expect(nllb({ moe_token_dropout: 0 }).router.scale).toBe(1)
  })

  it('have the hub’s names', () => {
    const nllb = describeTiny('nllb-moe').weights
    expect(nllb.expert(1, 3, 'up.bias').name).toBe('model.encoder.layers.1.ffn.experts.expert_3.fc1.bias')
    expect(nllb.layer(7, 'router').name).toBe('model.decoder.layers.3.ffn.router.classifier.weight')
    const { weights } = describeTiny('switch_transformers')
    expect(weights.expert(5, 7, 'down').name).toBe('decoder.block.1.layer.2.mlp.experts.expert_7.wo.weight')
    expect(() => weights.expert(0, 0, 'up')).toThrow(/layer 0 has no tensor up of an expert 0/)
    expect(() => weights.expert(1, 0, 'gate')).toThrow(/layer 1 has no tensor gate/)
  })
})

it('nllb-moe goes by both spellings of its model_type', () => {
  expect(configOf('nllb-moe', { model_type: 'nllb_moe' })).toEqual(configOf('nllb-moe'))
})

it('a tied table is found under whichever name it was stored', () => {
  const embed = (held: string[]) => describeTiny('t5', {}, {}, held).weights.model('embed').name
  expect(embed([])).toBe('shared.weight')
  expect(embed(['encoder.embed_tokens.weight', 'shared.weight'])).toBe('shared.weight')
  expect(embed(['decoder.embed_tokens.weight'])).toBe('decoder.embed_tokens.weight')
  expect(describeTiny('marian').weights.model('head').name).toBe('model.shared.weight')
})

describe('a value that is not supported is refused, its key and value named', () => {
  it.each<[Seq2seqName, Raw, RegExp]>([
    ['bart', { decoder_start_token_id: null }, /decoder_start_token_id null, but the id that the decoder begins with/],
    ['bart', { decoder_start_token_id: 128 }, /decoder_start_token_id 128, but ids run from 0 to 127/],
    ['bart', { forced_bos_token_id: 128 }, /forced_bos_token_id 128, but ids run from 0 to 127/],
    ['bart', { forced_eos_token_id: 999 }, /forced_eos_token_id 999, but ids run from 0 to 127/],
    ['bart', { decoder_start_token_id: [1, 2] }, /decoder_start_token_id \[1,2\], but only one id/],
    ['bart', { is_encoder_decoder: false }, /is_encoder_decoder false/],
    ['bart', { normalize_before: true }, /normalize_before true, but only false/],
    ['bart', { add_final_layer_norm: true }, /add_final_layer_norm true/],
    [
      'bart',
      { decoder_attention_heads: 8 },
      /decoder_attention_heads 8, but only the value of encoder_attention_heads, 4/,
    ],
    [
      'bart',
      { encoder_attention_heads: 6, decoder_attention_heads: 6 },
      /encoder_attention_heads 6, which does not divide/,
    ],
    ['bart', { decoder_ffn_dim: 97 }, /decoder_ffn_dim 97/],
    ['bart', { activation_function: 'tanh' }, /activation_function "tanh", but only "relu"/],
    ['bart', { quantization_config: { quant_method: 'fp8' } }, /quantization_config .*unquantised/],
    ['marian', { share_encoder_decoder_embeddings: false }, /share_encoder_decoder_embeddings false/],
    ['marian', { decoder_vocab_size: 64 }, /decoder_vocab_size 64/],
    ['marian', { normalize_embedding: true }, /normalize_embedding true/],
    ['marian', { bad_words_ids: [[1, 2]] }, /bad_words_ids \[\[1,2\]\], but only words of one token/],
    ['marian', { bad_words_ids: [3] }, /bad_words_ids \[3\], but a list of list of token ids/],
    ['marian', { d_model: 63, encoder_attention_heads: 3, decoder_attention_heads: 3 }, /d_model 63, .*even/],
    ['nllb-moe', { second_expert_policy: 'sampling' }, /second_expert_policy "sampling"/],
    ['nllb-moe', { batch_prioritized_routing: true }, /batch_prioritized_routing true/],
    ['nllb-moe', { router_dtype: 'bfloat16' }, /router_dtype "bfloat16"/],
    ['nllb-moe', { moe_token_dropout: 1 }, /moe_token_dropout 1/],
    ['nllb-moe', { num_experts: 1 }, /num_experts 1, but every row goes to two/],
    ['switch_transformers', { router_bias: true }, /router_bias true/],
    ['switch_transformers', { expert_capacity: 0 }, /expert_capacity 0/],
    ['switch_transformers', { num_sparse_encoder_layers: 5 }, /num_sparse_encoder_layers 5, more than/],
    ['t5', { feed_forward_proj: 'gated-tanh' }, /feed_forward_proj "gated-tanh"/],
    ['t5', { relative_attention_num_buckets: 6 }, /relative_attention_num_buckets 6, .*multiple of 4/],
    ['t5', { relative_attention_max_distance: 4 }, /relative_attention_max_distance 4/],
  ])('%s with %j', (family, more, message) => {
    expect(() => describeTiny(family, more)).toThrow(message)
    expect(() => describeTiny(family, more)).toThrow(expect.objectContaining({ name: 'MeshError', code: 9 }))
  })
})

describe('a random checkpoint', () => {
  it.each(names)('of %s opens', async (name) => {
    const dir = await mkdtemp(join(tmpdir(), 'seq2seq-'))
    onTestFinished(() => rm(dir, { recursive: true }))
    await writeCheckpoint(dir, seq2seqConfigs[name], { seed: 3, shards: 2 })
    const { config, weights, checkpoint, close } = await openModel(dir)
    const used = new Set([...sources(config, weights)].map((source) => source.name))
    expect([...used].sort()).toEqual([...checkpoint.names].sort())
    await close()
  })
})

for (const name of ['marian', 'bart', 't5', 'switch_transformers', 'nllb_moe'])
  describeGolden(name, () => {
    it('has every one of its tensors read, but for copies of the embedding and positions that are computed', async () => {
      const { config, weights, checkpoint, close } = await openModel(golden(name).dir)
      const used = new Set([...sources(config, weights)].map((source) => source.name))
      const rest = [...checkpoint.names].filter((tensor) => !used.has(tensor))
      const copies = name === 'marian' ? /\.embed_(tokens|positions)\.weight$/ : /\.embed_tokens\.weight$/
      expect(rest.filter((tensor) => !copies.test(tensor))).toEqual([])
      await close()
    })
  })
