import { z } from 'zod'
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import { openCharsmap } from './charsmap.ts'

const component = z.looseObject({ type: z.string() })
type Component = z.infer<typeof component>

const addedToken = z.looseObject({
  id: z.int().min(0),
  content: z.string(),
  special: z.boolean().default(false),
  single_word: z.boolean().default(false),
  normalized: z.boolean().optional(),
})

/** What expertmesh reads of tokenizer.json itself (huggingface/tokenizers' serialisation); the library reads the rest. */
export const tokenizerJson = z.looseObject({
  added_tokens: z.array(addedToken).default([]),
  normalizer: component.nullable().default(null),
  pre_tokenizer: component.nullable().default(null),
  post_processor: component.nullable().default(null),
  decoder: component.nullable().default(null),
  model: z.looseObject({
    type: z.string().optional(),
    vocab: z.union([z.record(z.string(), z.int().min(0)), z.array(z.tuple([z.string(), z.number()]))]),
  }),
})
export type TokenizerJson = z.infer<typeof tokenizerJson>

const refuse = (what: string): never => {
  throw new MeshError(
    Code.FAILED_PRECONDITION,
    `tokenizer.json asks for ${what}, which cannot be reproduced exactly here: take tokenizer.json out of the model's folder and send token ids.`,
  )
}

const asked = (value: unknown): boolean => value !== undefined && value !== null && value !== false && value !== ''
const parts = (of: Component, key: string): Component[] => z.array(component).parse(of[key] ?? [])
/** JavaScript gives $ a meaning in replacements that Rust's str::replace does not. */
const checkReplacement = (of: Component): void => {
  if (String(of.content ?? '').includes('$')) refuse(`the replacement text ${JSON.stringify(of.content)}`)
}

/** The library hands a Replace's content to String.replaceAll, which calls it where it is a function. */
const normalizeBy = (content: (text: string) => string): Component => ({
  type: 'Replace',
  pattern: { Regex: '[\\s\\S]+' },
  content,
})

const precompiled = (of: Component, { added_tokens }: TokenizerJson): Component => {
  const map = openCharsmap(z.string().parse(of.precompiled_charsmap))
  const raw = added_tokens.filter(({ normalized, special }) => !(normalized ?? !special))
  return normalizeBy((text) => {
    const mapped = map(text)
    // Such tokens are looked for before normalization; the library would take a text that becomes one for the token.
    const become = mapped === text ? undefined : raw.find(({ content }) => mapped.includes(content))
    if (become)
      throw invalid(
        `The text holds characters that stand for ${become.content}, a special token: send that, or token ids.`,
        'prompt',
      )
    return mapped
  })
}

/** Rust's char::is_whitespace, at either end; looking behind keeps long white space inside the text from being read again and again. */
const strip = (of: Component): Component =>
  normalizeBy((text) => {
    const left = of.strip_left ? text.replace(/^\p{White_Space}+/u, '') : text
    return of.strip_right ? left.replace(/(?<!\p{White_Space})\p{White_Space}+$/u, '') : left
  })

const exactNormalizers = new Set(['NFC', 'NFD', 'NFKC', 'NFKD', 'Prepend', 'Replace'])

/** The same normalizer in terms that the library follows to the letter. */
const normalizer = (of: Component, json: TokenizerJson): Component => {
  if (of.type === 'Sequence')
    return { ...of, normalizers: parts(of, 'normalizers').map((part) => normalizer(part, json)) }
  if (of.type === 'Precompiled') return precompiled(of, json)
  if (of.type === 'Strip') return strip(of)
  if (!exactNormalizers.has(of.type)) refuse(`the ${of.type} normalizer`)
  if (of.type === 'Replace') checkReplacement(of)
  return of
}

/** A pattern with escapes and character classes taken out, so that what is left of +, ? and ( is syntax. */
const bare = (pattern: string): string =>
  pattern
    .replace(/\\G/g, '(?>')
    .replace(/\\./gs, '')
    .replace(/\[[^\]]*\]/g, 'x')

const checkSplit = (split: Component): void => {
  const { Regex } = z.looseObject({ Regex: z.string().optional() }).parse(split.pattern ?? {})
  // Possessive, atomic and \G have no JavaScript counterpart; the library runs them as ordinary groups.
  if (Regex !== undefined && /\(\?>|[?*+]\+/.test(bare(Regex))) refuse(`the split pattern ${Regex}`)
  const isolated = split.behavior === 'Isolated' && !split.invert
  const removed = split.behavior === 'Removed' && split.invert === true && Regex !== undefined
  if (!isolated && !removed)
    refuse(`the Split pre-tokenizer's behavior ${split.behavior}${split.invert ? ', inverted' : ''}`)
}

const isolate = (pattern: string): Component => ({
  type: 'Split',
  pattern: { Regex: pattern },
  behavior: 'Isolated',
  invert: false,
})

/** ByteLevel's own pattern (openai/gpt-2, encoder.py), as huggingface/tokenizers has it. */
const byteLevelPattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/** Rust's is_ascii_punctuation or Unicode category P. */
const punctuation = '[\\p{P}!-/:-@\\x5B-`{-~]'

const piecesOf = ({ model: { vocab } }: TokenizerJson): string[] =>
  Array.isArray(vocab) ? vocab.map(([piece]) => piece) : Object.keys(vocab)

const metaspace = (of: Component, json: TokenizerJson, behind: boolean): Component => {
  const mark = String(of.replacement ?? '▁')
  const scheme = of.prepend_scheme ?? (of.add_prefix_space === false ? 'never' : 'always')
  if (scheme === 'first' && behind) refuse('Metaspace with prepend_scheme "first" behind another pre-tokenizer')
  if (scheme === 'first' && json.normalizer && json.added_tokens.some((token) => token.normalized ?? !token.special)) {
    refuse('Metaspace with prepend_scheme "first" and normalized added tokens')
  }
  const marked = { type: 'Metaspace', replacement: mark, prepend_scheme: scheme }
  if (of.split === false) return marked
  const code = `\\x{${mark.codePointAt(0)?.toString(16)}}`
  return { type: 'Sequence', pretokenizers: [marked, isolate(`${code}[^${code}]*`)] }
}

/** The library fuses unknown pieces over the ends of words: every word has to begin with a piece that is known. */
const checkFused = (json: TokenizerJson): void => {
  const { model, pre_tokenizer } = json
  const fuses =
    Array.isArray(model.vocab) || (asked(model.fuse_unk) && asked(model.unk_token) && !asked(model.byte_fallback))
  if (!fuses || !pre_tokenizer) return
  const all = pre_tokenizer.type === 'Sequence' ? parts(pre_tokenizer, 'pretokenizers') : [pre_tokenizer]
  const last = all.at(-1)
  const always = last && (last.prepend_scheme ?? (last.add_prefix_space === false ? 'never' : 'always')) === 'always'
  const known = last?.type === 'Metaspace' && piecesOf(json).includes(String(last.replacement ?? '▁'))
  if (!known || (all.length > 1 && !always))
    refuse(
      `fused unknown pieces and the ${pre_tokenizer.type} pre-tokenizer, whose words begin with no mark of their own`,
    )
}

/** The same pre-tokenizer in terms that the library follows to the letter. */
const preTokenizer = (of: Component, json: TokenizerJson, behind: boolean): Component => {
  switch (of.type) {
    case 'Sequence': {
      const all = parts(of, 'pretokenizers')
      return { ...of, pretokenizers: all.map((part, at) => preTokenizer(part, json, behind || at > 0)) }
    }
    case 'ByteLevel': {
      // The library's own pattern has JavaScript's idea of white space; through Split it gets Oniguruma's.
      if (of.use_regex === false || of.add_prefix_space) return of
      return { type: 'Sequence', pretokenizers: [isolate(byteLevelPattern), { ...of, use_regex: false }] }
    }
    case 'Digits':
      return isolate(of.individual_digits ? '\\p{N}' : '\\p{N}+')
    case 'Punctuation':
      if (asked(of.behavior) && of.behavior !== 'Isolated')
        refuse(`the Punctuation pre-tokenizer's behavior ${of.behavior}`)
      return isolate(punctuation)
    case 'WhitespaceSplit':
      return { type: 'Split', pattern: { Regex: '\\s+' }, behavior: 'Removed', invert: false }
    case 'Metaspace':
      return metaspace(of, json, behind)
    case 'Split':
      checkSplit(of)
      return of
    default:
      return refuse(`the ${of.type} pre-tokenizer`)
  }
}

const decoder = (of: Component, json: TokenizerJson, nested: boolean): Component => {
  switch (of.type) {
    case 'Sequence': {
      const decoders = parts(of, 'decoders')
      if (decoders.length === 1) return decoder(decoders[0], json, nested)
      return { ...of, decoders: decoders.map((part) => decoder(part, json, true)) }
    }
    case 'ByteLevel':
      // Inside a sequence the library does not tell it the added tokens.
      return nested ? refuse('a ByteLevel decoder among others') : of
    case 'Replace':
      checkReplacement(of)
      return of
    case 'Strip':
      // What is stripped at the end could not be known while streaming.
      return asked(of.stop) && of.stop !== 0 ? refuse('a Strip decoder that strips the end') : of
    case 'Metaspace': {
      const mark = String(of.replacement ?? '▁')
      if ((of.prepend_scheme ?? 'always') === 'never' || of.add_prefix_space === false)
        return { type: 'Replace', pattern: { String: mark }, content: ' ' }
      // Every mark of the first piece is left out, and by the library the first one only.
      if (piecesOf(json).some((piece) => piece.lastIndexOf(mark) > 0))
        refuse('a Metaspace decoder, with pieces that hold the mark inside')
      return of
    }
    case 'ByteFallback':
    case 'Fuse':
      return of
    default:
      return refuse(`the ${of.type} decoder`)
  }
}

/** The library gives the unknown piece a score of its own, and adds scores in another order: sums of 32-bit numbers are exact in any. */
const checkUnigram = ({ model, added_tokens }: TokenizerJson): void => {
  if (!Array.isArray(model.vocab)) return
  if (asked(model.byte_fallback)) refuse('a Unigram model with byte_fallback')
  const unknown = model.vocab[Number(model.unk_id ?? -1)]?.[0]
  if (unknown === undefined) refuse('a Unigram model without an unknown piece')
  if (!added_tokens.some(({ content }) => content === unknown))
    refuse(`a Unigram model whose unknown piece ${unknown} is no special token`)
  const wrong = model.vocab.find(([, score]) => Math.fround(score) !== score)
  if (wrong) refuse(`a Unigram model with scores of more than 32 bits, as that of ${wrong[0]}`)
}

/** Older files do not name the model's type. */
const typeOf = ({ model }: TokenizerJson): string =>
  model.type ?? ('merges' in model ? 'BPE' : Array.isArray(model.vocab) ? 'Unigram' : 'unnamed')

const checkModel = (json: TokenizerJson): void => {
  const { model } = json
  const type = typeOf(json)
  if (type !== 'BPE' && type !== 'Unigram') refuse(`the ${type} model`)
  checkUnigram(json)
  for (const key of ['dropout', 'continuing_subword_prefix', 'end_of_word_suffix']) {
    if (asked(model[key]) && model[key] !== 0) refuse(`a ${type} model with ${key}`)
  }
}

/**
 * A tokenizer.json that @huggingface/tokenizers 0.2 follows as huggingface/tokenizers would: parts it approximates are put in other
 * terms where that is possible.
 * @throws MeshError FAILED_PRECONDITION naming the part where it is not.
 */
export const exactTokenizer = (json: TokenizerJson): TokenizerJson => {
  checkModel(json)
  checkFused(json)
  const lonely = json.added_tokens.find((token) => token.single_word)
  if (lonely) refuse(`the added token ${lonely.content} as a single word`)
  return {
    ...json,
    model: { ...json.model, type: typeOf(json) },
    normalizer: json.normalizer && normalizer(json.normalizer, json),
    pre_tokenizer: json.pre_tokenizer && preTokenizer(json.pre_tokenizer, json, false),
    decoder: json.decoder && decoder(json.decoder, json, false),
  }
}
