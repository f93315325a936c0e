/**
 * Truth is huggingface/tokenizers' own (Python tokenizers 0.23.2): it wrote the tokenizer.json of three kinds, T5's as published, T5's as
 * converted since, and NLLB's, and the ids and texts of truth.json. The pieces are from sentencepiece 0.2.2's trainer over a README, the
 * charsmap is its nmt_nfkc, the one that T5 and NLLB have; it is kept in a file of its own, compressed.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { brotliDecompressSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openCharsmap } from '../../../../services/gateway/accept/charsmap.ts'
import { type ModelTokenizer, openTokenizer } from '../../../../services/gateway/accept/tokenizer.ts'
import { textStream } from '../../../../services/gateway/stream/emit.ts'
import { Code } from '../../../../shared/errors.ts'

const data = join(import.meta.dirname, '../../../data/tokenizers')
const kinds = ['t5', 't5-new', 'nllb'] as const
type Told<T> = Record<(typeof kinds)[number], T>
type Case = Told<{ ids: number[]; text: string }> & { text: string; normalized: string }
const { cases, decoded }: { cases: Case[]; decoded: (Told<string> & { ids: number[] })[] } = JSON.parse(
  await readFile(join(data, 'truth.json'), 'utf8'),
)
const charsmap = brotliDecompressSync(await readFile(join(data, 'charsmap.bin.br'))).toString('base64')
const read = async (kind: string) =>
  JSON.parse((await readFile(join(data, `${kind}.json`), 'utf8')).replace('charsmap.bin.br', charsmap))

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'expertmesh-sentencepiece-'))
})
afterAll(() => rm(dir, { recursive: true }))

const open = async (json: object): Promise<ModelTokenizer> => {
  await writeFile(join(dir, 'tokenizer.json'), JSON.stringify(json))
  return (await openTokenizer(dir))!
}
const skip = { skipSpecialTokens: true }
const around = { addSpecialTokens: true }

describe.each(kinds)("%s's tokenizer", (kind) => {
  let tokenizer: ModelTokenizer
  beforeAll(async () => {
    tokenizer = await open(await read(kind))
  })

  it.each(cases)('has the ids of $text, and their text', (expected) => {
    const { ids, text } = expected[kind]
    expect(tokenizer.encode(expected.text, around)).toEqual(ids)
    expect(tokenizer.decode(ids, skip)).toBe(text)
  })

  it('is the same where the file does not name the type of its model', async () => {
    const { model, ...json } = await read(kind)
    const { type, ...unnamed } = model
    const older = await open({ ...json, model: unnamed })
    expect(['Unigram', 'BPE']).toContain(type)
    for (const { text, [kind]: expected } of cases) expect(older.encode(text, around)).toEqual(expected.ids)
  })

  it('has the text of any ids, at once and as they come', () => {
    for (const { ids, [kind]: text } of decoded) {
      expect(tokenizer.decode(ids, skip)).toBe(text)
      const stream = textStream(tokenizer, { prompt: [0] })
      expect(ids.map((id) => stream.push(id).text).join('') + stream.end()).toBe(text)
    }
  })

  it('refuses a text that becomes a special token by normalization, and takes the token itself', () => {
    expect(() => tokenizer.encode('a ＜/s＞', around)).toThrow(
      expect.objectContaining({ code: Code.INVALID_ARGUMENT, message: expect.stringContaining('</s>') }),
    )
    expect(tokenizer.encode('a </s>', { addSpecialTokens: false }).at(-1)).toBe(1)
  })
})

describe("T5's tokenizer", () => {
  it('refuses a word of more pieces than can be cut', async () => {
    const tokenizer = await open(await read('t5'))
    expect(tokenizer.encode('漢 '.repeat(100_000), around)).toHaveLength(200_001)
    expect(() => tokenizer.encode('漢'.repeat(300_000), around)).toThrow(
      expect.objectContaining({ code: Code.INVALID_ARGUMENT, message: expect.stringContaining('shorten it') }),
    )
  })
})

describe('a precompiled charsmap', () => {
  it('normalizes as sentencepiece has it, mark by mark', () => {
    const normalize = openCharsmap(charsmap)
    for (const { text, normalized } of cases) expect(normalize(text)).toBe(normalized)
  })

  it('cuts no grapheme of a long text, however long', () => {
    const normalize = openCharsmap(charsmap)
    for (const { text, normalized } of cases.filter(({ text }) => /^\p{L}.*\p{L}$/u.test(text)))
      expect(normalize(`${text} `.repeat(5_000))).toBe(`${normalized} `.repeat(5_000))
    const marks = '\u0301'.repeat(3_000)
    expect(normalize(`${'ﬁ'.repeat(255)}e${marks}ﬁ`)).toBe(`${'fi'.repeat(255)}e${marks}fi`)
    expect(normalize(`${'ﬁ'.repeat(255)}e\u0301\u0323ﬁ`)).toBe(`${'fi'.repeat(255)}\u00e9fi`)
  })

  it.each(['', 'AAAA', 'AAAAAAAA', 'CAAAAAAA', '/////w=='])('is refused where it is damaged: %s', async (damaged) => {
    const json = await read('t5')
    await expect(
      open({ ...json, normalizer: { ...json.normalizer, precompiled_charsmap: damaged } }),
    ).rejects.toMatchObject({
      code: Code.FAILED_PRECONDITION,
      message: expect.stringContaining('precompiled_charsmap'),
    })
  })
})

describe('opening a SentencePiece tokenizer', () => {
  it('strips white space at the ends as Unicode has it', async () => {
    const json = await read('t5-new')
    const strip = { type: 'Strip', strip_left: true, strip_right: true }
    const tokenizer = await open({ ...json, normalizer: strip })
    const ids = (text: string) => tokenizer.encode(text, around)
    expect(ids('\u0085\u2003the\u3000 \u0085')).toEqual(ids('the'))
    expect(ids('the\ufeff')).not.toEqual(ids('the'))
  })

  const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' }
  const first = { ...metaspace, prepend_scheme: 'first' }
  it.each<[string, (json: Awaited<ReturnType<typeof read>>) => object]>([
    ['unknown piece <unk> is no special token', ({ added_tokens: [pad, eos] }) => ({ added_tokens: [pad, eos] })],
    ['scores of more than 32 bits', ({ model }) => ({ model: { ...model, vocab: [...model.vocab, ['new', -0.1]] } })],
    ['without an unknown piece', ({ model }) => ({ model: { ...model, unk_id: null } })],
    ['a Unigram model with byte_fallback', ({ model }) => ({ model: { ...model, byte_fallback: true } })],
    [
      'the Sequence pre-tokenizer',
      () => ({ pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'WhitespaceSplit' }] } }),
    ],
    ['the Digits pre-tokenizer', () => ({ pre_tokenizer: { type: 'Digits' } })],
    [
      'whose words begin with no mark of their own',
      ({ model }) => ({ model: { ...model, vocab: model.vocab.filter(([piece]: [string]) => piece !== '▁') } }),
    ],
    [
      'the Sequence pre-tokenizer',
      () => ({ pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'WhitespaceSplit' }, first] } }),
    ],
    [
      'a Metaspace decoder, with pieces',
      ({ model }) => ({ model: { ...model, vocab: [...model.vocab, ['a▁b', -1]] } }),
    ],
    [
      'the Lowercase normalizer',
      ({ normalizer }) => ({ normalizer: { type: 'Sequence', normalizers: [normalizer, { type: 'Lowercase' }] } }),
    ],
  ])('refuses what it could not do exactly: %s', async (what, changed) => {
    const json = await read('t5')
    await expect(open({ ...json, ...changed(json) })).rejects.toMatchObject({
      code: Code.FAILED_PRECONDITION,
      message: expect.stringContaining(what),
    })
  })
})
