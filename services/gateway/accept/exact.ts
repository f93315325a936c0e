import { z } from 'zod'
import { Code, MeshError } from '../../../shared/errors.ts'

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

const exactNormalizers = new Set(['NFC', 'NFD', 'NFKC', 'NFKD', 'Prepend', 'Replace'])

const checkNormalizer = (normalizer: Component): void => {
  if (normalizer.type === 'Sequence') {
    for (const part of parts(normalizer, 'normalizers')) checkNormalizer(part)
    return
  }
  if (!exactNormalizers.has(normalizer.type)) refuse(`the ${normalizer.type} normalizer`)
  if (normalizer.type === 'Replace') checkReplacement(normalizer)
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

const metaspace = (of: Component, json: TokenizerJson): Component => {
  const mark = String(of.replacement ?? '▁')
  const scheme = of.prepend_scheme ?? (of.add_prefix_space === false ? 'never' : 'always')
  const { vocab } = json.model
  const pieces = Array.isArray(vocab) ? vocab.map(([piece]) => piece) : Object.keys(vocab)
  // Without such pieces no merge can cross the places where Metaspace would have split.
  if (of.split !== false && pieces.some((piece) => piece.lastIndexOf(mark) > 0)) {
    refuse('a Metaspace pre-tokenizer that splits, with pieces that hold the mark inside')
  }
  if (scheme === 'first' && json.normalizer && json.added_tokens.some((token) => token.normalized ?? !token.special)) {
    refuse('Metaspace with prepend_scheme "first" and normalized added tokens')
  }
  return { ...of, prepend_scheme: scheme }
}

/** The same pre-tokenizer in terms that the library follows to the letter. */
const preTokenizer = (of: Component, json: TokenizerJson): Component => {
  switch (of.type) {
    case 'Sequence':
      return { ...of, pretokenizers: parts(of, 'pretokenizers').map((part) => preTokenizer(part, json)) }
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
    case 'Metaspace':
      return metaspace(of, json)
    case 'Split':
      checkSplit(of)
      return of
    default:
      return refuse(`the ${of.type} pre-tokenizer`)
  }
}

const decoder = (of: Component, nested: boolean): Component => {
  switch (of.type) {
    case 'Sequence': {
      const decoders = parts(of, 'decoders')
      if (decoders.length === 1) return decoder(decoders[0], nested)
      return { ...of, decoders: decoders.map((part) => decoder(part, true)) }
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
    case 'Metaspace':
      if (of.prepend_scheme !== 'never' && of.add_prefix_space !== false) return of
      return { type: 'Replace', pattern: { String: of.replacement ?? '▁' }, content: ' ' }
    case 'ByteFallback':
    case 'Fuse':
      return of
    default:
      return refuse(`the ${of.type} decoder`)
  }
}

const checkModel = ({ model }: TokenizerJson): void => {
  const type = model.type ?? ('merges' in model ? 'BPE' : 'unnamed')
  if (type !== 'BPE' && type !== 'Unigram') refuse(`the ${type} model`)
  if (type === 'Unigram' && asked(model.byte_fallback)) refuse('a Unigram model with byte_fallback')
  for (const key of ['dropout', 'continuing_subword_prefix', 'end_of_word_suffix']) {
    if (asked(model[key]) && model[key] !== 0) refuse(`a ${type} model with ${key}`)
  }
}

/**
 * A tokenizer.json that @huggingface/tokenizers 0.2 follows as huggingface/tokenizers would: parts it approximates are put in other
 * terms where that is possible.
 * @throws MeshError FAILED_PRECONDITION naming the part where it is not, such as the Precompiled normalizer.
 */
export const exactTokenizer = (json: TokenizerJson): TokenizerJson => {
  checkModel(json)
  if (json.normalizer) checkNormalizer(json.normalizer)
  const lonely = json.added_tokens.find((token) => token.single_word)
  if (lonely) refuse(`the added token ${lonely.content} as a single word`)
  return {
    ...json,
    pre_tokenizer: json.pre_tokenizer && preTokenizer(json.pre_tokenizer, json),
    decoder: json.decoder && decoder(json.decoder, false),
  }
}
