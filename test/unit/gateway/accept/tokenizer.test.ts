import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ModelTokenizer, openTokenizer } from '../../../../services/gateway/accept/tokenizer.ts'
import { Code } from '../../../../shared/errors.ts'

const demo = join(import.meta.dirname, '../../../../models/demo')
const read = async (name: string) => JSON.parse(await readFile(join(demo, name), 'utf8'))

let tokenizer: ModelTokenizer
let dir: string
beforeAll(async () => {
  tokenizer = (await openTokenizer(demo))!
  dir = await mkdtemp(join(tmpdir(), 'expertmesh-tokenizer-'))
})
afterAll(() => rm(dir, { recursive: true }))

/** A folder with a tokenizer of the parts given; pieces are numbered in order. */
const open = async (json: object, config: object = {}): Promise<ModelTokenizer | null> => {
  await writeFile(join(dir, 'tokenizer.json'), JSON.stringify(json))
  await writeFile(join(dir, 'tokenizer_config.json'), JSON.stringify(config))
  return openTokenizer(dir)
}
const vocab = (...pieces: string[]) => Object.fromEntries(pieces.map((piece, id) => [piece, id]))
const bytePieces = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
/** Mixtral's kind: SentencePiece BPE as tokenizer.json has it, with byte fallback. */
const sentencePiece = {
  added_tokens: [
    { id: 0, content: '<unk>', special: true },
    { id: 1, content: '<s>', special: true },
    { id: 2, content: '</s>', special: true },
  ],
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '▁' },
      { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    ],
  },
  pre_tokenizer: null,
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
  },
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
  model: {
    type: 'BPE',
    unk_token: '<unk>',
    fuse_unk: true,
    byte_fallback: true,
    vocab: vocab('<unk>', '<s>', '</s>', ...bytePieces, '▁', 'a', 'b', '▁a', 'ab', '▁ab'),
    merges: ['▁ a', 'a b', '▁a b'],
  },
}

describe("the demo model's tokenizer", async () => {
  const { cases } = await read('expected.json')

  it.each(cases as { prompt: string; input_ids: number[]; greedy: number[]; text: string }[])(
    'turns "$prompt" into the ids transformers had, and the output into its text',
    ({ prompt, input_ids, greedy, text }) => {
      expect(tokenizer.encode(prompt, { addSpecialTokens: true })).toEqual(input_ids)
      expect(tokenizer.encode(prompt, { addSpecialTokens: false })).toEqual(input_ids.slice(1))
      expect(tokenizer.decode(greedy, { skipSpecialTokens: true })).toBe(text)
    },
  )

  it('knows its special tokens and its size', () => {
    expect([tokenizer.bos, tokenizer.eos, tokenizer.idCount]).toEqual([0, 1, 4096])
    expect([...tokenizer.specialIds]).toEqual([0, 1])
  })

  it('gives back any text it is given, whatever the script', () => {
    const text = 'Ünïcode “quotes” 漢字 🦙👩‍👩‍👧 \u0000\ufeff\u0085 \t\r\n  end'
    const ids = tokenizer.encode(text, { addSpecialTokens: true })
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(text)
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(`<|begin_of_text|>${text}`)
    const bytes = Buffer.concat(ids.slice(1).map((id) => tokenizer.token(id).bytes))
    expect(bytes.toString('utf8')).toBe(text)
  })

  it('recognises a special token spelled out in a text', () => {
    expect(tokenizer.encode('<|end_of_text|>', { addSpecialTokens: false })).toEqual([1])
    expect(tokenizer.token(1).text).toBe('<|end_of_text|>')
  })

  it('has no text for ids outside its vocabulary, nor for none', () => {
    expect(tokenizer.decode([], { skipSpecialTokens: true })).toBe('')
    expect(tokenizer.decode([9999], { skipSpecialTokens: true })).toBe('')
  })
})

describe('opening a tokenizer', () => {
  it('finds none in a folder without tokenizer.json', async () => {
    expect(await openTokenizer(join(demo, 'recipe'))).toBeNull()
  })

  it('adds the bos that add_bos_token promises where the post-processor adds none, and only then', async () => {
    const json = await read('tokenizer.json')
    const config = await read('tokenizer_config.json')
    const ids = tokenizer.encode('And', { addSpecialTokens: false })
    const encode = async (post_processor: unknown, flags: object) =>
      (await open({ ...json, post_processor }, { ...config, ...flags }))!.encode('And', { addSpecialTokens: true })
    const byteLevel = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true }
    const both = { type: 'Sequence', processors: [byteLevel, json.post_processor] }
    expect(await encode(byteLevel, {})).toEqual([0, ...ids])
    expect(await encode(both, {})).toEqual([0, ...ids])
    expect(await encode(byteLevel, { add_bos_token: null })).toEqual(ids)
    expect(await encode(both, { add_bos_token: null })).toEqual([0, ...ids])
    expect(await encode(both, { add_bos_token: false })).toEqual(ids)
    expect(await encode(byteLevel, { bos_token: { content: '<|begin_of_text|>' }, add_eos_token: true })).toEqual([
      0,
      ...ids,
      1,
    ])
  })

  it('does SentencePiece BPE with byte fallback', async () => {
    const opened = (await open(sentencePiece))!
    const ids = opened.encode('ab é a', { addSpecialTokens: true })
    expect(ids).toEqual([1, 264, 259, 3 + 0xc3, 3 + 0xa9, 262])
    expect(opened.decode(ids, { skipSpecialTokens: true })).toBe('ab é a')
    expect(opened.token(264)).toEqual({ text: ' ab', bytes: Buffer.from(' ab') })
    expect([...opened.token(3 + 0xc3).bytes]).toEqual([0xc3])
  })

  it('splits digits and punctuation by Unicode, not by ASCII', async () => {
    const pieces = ['a', '٣', '٤', '٣٤', 'a٣', '«', '««']
    const digits = {
      type: 'Sequence',
      pretokenizers: [{ type: 'Digits', individual_digits: true }, { type: 'Punctuation' }],
    }
    const model = { type: 'BPE', vocab: vocab(...pieces), merges: ['٣ ٤', 'a ٣', '« «'] }
    const opened = (await open({ pre_tokenizer: digits, decoder: { type: 'Fuse' }, model }))!
    expect(opened.encode('a٣٤««', { addSpecialTokens: true })).toEqual([0, 1, 2, 5, 5])
  })

  const model = { type: 'BPE', vocab: vocab('a', '▁', '▁▁'), merges: ['▁ ▁'] }
  it.each([
    ['the Lowercase normalizer', { model, normalizer: { type: 'Sequence', normalizers: [{ type: 'Lowercase' }] } }],
    [
      'MergedWithNext',
      { model, pre_tokenizer: { type: 'Split', pattern: { String: 'a' }, behavior: 'MergedWithNext' } },
    ],
    [
      'the split pattern a?+b',
      { model, pre_tokenizer: { type: 'Split', pattern: { Regex: 'a?+b' }, behavior: 'Isolated' } },
    ],
    ['the BertPreTokenizer pre-tokenizer', { model, pre_tokenizer: { type: 'BertPreTokenizer' } }],
    ['a Metaspace decoder, with pieces that hold the mark inside', { model, decoder: { type: 'Metaspace' } }],
    ['the CTC decoder', { model, decoder: { type: 'CTC' } }],
    ['the WordPiece model', { model: { type: 'WordPiece', vocab: {} } }],
    ['a BPE model with dropout', { model: { ...model, dropout: 0.1 } }],
    ['the added token a as a single word', { model, added_tokens: [{ id: 0, content: 'a', single_word: true }] }],
  ])('refuses what it could not do exactly: %s', async (what, json) => {
    await expect(open(json)).rejects.toMatchObject({
      code: Code.FAILED_PRECONDITION,
      message: expect.stringContaining(what),
    })
  })

  it('takes a pattern whose + and ? stand in a class or are escaped for what it is', async () => {
    const pattern = { Regex: '[?+*+]+|\\?+|\\s+(?!\\S)' }
    await expect(
      open({ model, pre_tokenizer: { type: 'Split', pattern, behavior: 'Isolated' } }),
    ).resolves.not.toBeNull()
  })

  it('says which file is broken', async () => {
    await writeFile(join(dir, 'tokenizer.json'), '{"model":')
    await expect(openTokenizer(dir)).rejects.toThrow(/^tokenizer\.json cannot be read: /)
    await expect(open({ model, normalizer: { type: 'Sequence', normalizers: 3 } })).rejects.toThrow(
      /^tokenizer\.json cannot be used: /,
    )
  })
})
