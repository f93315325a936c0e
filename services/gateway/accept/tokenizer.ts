import { Tokenizer } from '@huggingface/tokenizers'
import { z } from 'zod'
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import { type Around, aroundPrompt, withFlags } from './around.ts'
import { exactTokenizer, type TokenizerJson, tokenizerJson } from './exact.ts'
import { parseFile, readOptional, tokenText } from './folder.ts'

/** A model's tokenizer. Text comes out as the ids say it: tokenizer_config.json's clean_up_tokenization_spaces is not followed. */
export type ModelTokenizer = {
  /**
   * addSpecialTokens puts what the tokenizer puts around a prompt (such as bos). Special tokens spelled out in text are recognised.
   * @throws MeshError INVALID_ARGUMENT on the few texts that cannot be encoded exactly.
   */
  encode(text: string, options: { addSpecialTokens: boolean }): readonly number[]
  /** Ids without a piece (a padded vocabulary has such) are no text. */
  decode(ids: readonly number[], options: { skipSpecialTokens: boolean }): string
  /** A token's own bytes, and their text, in which part of a character shows as U+FFFD. */
  token(id: number): { text: string; bytes: Uint8Array }
  /** One more than the largest id with a piece. */
  idCount: number
  specialIds: ReadonlySet<number>
  bos: number | null
  eos: number | null
}

const tokenizerConfig = z.looseObject({
  bos_token: tokenText,
  eos_token: tokenText,
  add_bos_token: z.boolean().nullish(),
  add_eos_token: z.boolean().nullish(),
})

/**
 * The tokenizer of the model in `dir`, from its tokenizer.json and tokenizer_config.json; null without a tokenizer.json.
 * @throws MeshError FAILED_PRECONDITION where it cannot be read, or asks for what cannot be reproduced exactly.
 */
export const openTokenizer = async (dir: string): Promise<ModelTokenizer | null> => {
  const text = await readOptional(dir, 'tokenizer.json')
  if (text === null) return null
  const config = parseFile(
    'tokenizer_config.json',
    (await readOptional(dir, 'tokenizer_config.json')) ?? '{}',
    tokenizerConfig,
  )
  const { json, library, around: said } = build(parseFile('tokenizer.json', text, tokenizerJson))
  const idOf = (token: string | null): number | null => (token === null ? null : (library.token_to_id(token) ?? null))
  const bos = idOf(config.bos_token)
  const eos = idOf(config.eos_token)
  const around = withFlags(said, {
    bos,
    eos,
    addBos: config.add_bos_token ?? null,
    addEos: config.add_eos_token ?? null,
  })
  return {
    encode: (text, { addSpecialTokens }) => {
      const ids = encodeText(library, text)
      return addSpecialTokens ? [...around.before, ...ids, ...around.behind] : ids
    },
    decode: (ids, { skipSpecialTokens }) => {
      const known = ids.filter((id) => library.id_to_token(id) !== undefined)
      if (known.length === 0) return ''
      return library.decode(known, { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: false })
    },
    token: pieceReader(json, library),
    idCount: idCount(json),
    specialIds: new Set(json.added_tokens.filter(({ special }) => special).map(({ id }) => id)),
    bos,
    eos,
  }
}

/** Throws INVALID_ARGUMENT where the library hands a word's pieces on as more arguments than a call can have. */
const encodeText = (library: Tokenizer, text: string): readonly number[] => {
  try {
    return library.encode(text, { add_special_tokens: false }).ids
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw invalid(
      'The text has a stretch without a space that is too long to be cut into tokens: shorten it.',
      'prompt',
    )
  }
}

/** Throws FAILED_PRECONDITION where the library or expertmesh cannot make sense of a part. */
const build = (parsed: TokenizerJson): { json: TokenizerJson; library: Tokenizer; around: Around } => {
  try {
    const json = exactTokenizer(parsed)
    // The library's other options are for tokenizers that exactTokenizer refuses.
    return { json, library: new Tokenizer(json, {}), around: aroundPrompt(json.post_processor) }
  } catch (error) {
    if (error instanceof MeshError) throw error
    const issue = error instanceof z.ZodError ? error.issues[0] : null
    const reason = issue ? `${issue.path.join('.')}: ${issue.message}` : (error as Error).message
    const message = `tokenizer.json cannot be used: ${reason}.`
    throw new MeshError(Code.FAILED_PRECONDITION, message, { cause: error })
  }
}

const idCount = ({ model: { vocab }, added_tokens }: TokenizerJson): number => {
  const model = Array.isArray(vocab)
    ? vocab.length
    : Object.values(vocab).reduce((most, id) => Math.max(most, id + 1), 0)
  return added_tokens.reduce((most, { id }) => Math.max(most, id + 1), model)
}

/** The byte a character stands for in byte-level pieces (openai/gpt-2, encoder.py, bytes_to_unicode): printable Latin-1 is itself. */
const byteOfCharacter = ((): ReadonlyMap<string, number> => {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 255 && byte !== 173)
  let shifted = 256
  return new Map(
    Array.from({ length: 256 }, (_, byte) => [String.fromCharCode(printable(byte) ? byte : shifted++), byte] as const),
  )
})()

/** Reads a piece as bytes, by the kind of decoder the tokenizer has. */
const pieceReader = (json: TokenizerJson, library: Tokenizer): ModelTokenizer['token'] => {
  const added = new Set(json.added_tokens.map(({ id }) => id))
  const byteLevel = json.decoder?.type === 'ByteLevel'
  const bytesOf = (id: number): Uint8Array => {
    const piece = library.id_to_token(id) ?? ''
    if (added.has(id)) return Buffer.from(piece)
    const fallback = byteLevel ? null : /^<0x([0-9A-Fa-f]{2})>$/.exec(piece)
    if (fallback) return Uint8Array.of(Number.parseInt(fallback[1], 16))
    const bytes = byteLevel ? [...piece].map((character) => byteOfCharacter.get(character)) : []
    if (byteLevel && bytes.every((byte) => byte !== undefined)) return Uint8Array.from(bytes)
    return Buffer.from(piece.replaceAll('▁', ' '))
  }
  return (id) => {
    const bytes = bytesOf(id)
    return { text: Buffer.from(bytes).toString('utf8'), bytes }
  }
}
