import { Code, MeshError } from '../../../shared/errors.ts'

/** Longer graphemes are replaced character by character (huggingface/tokenizers, normalizers/precompiled.rs). */
const graphemeBytesMax = 5
const segmenter = new Intl.Segmenter('und', { granularity: 'grapheme' })
/** UTF-16 units segmented at once: the time per segment grows with the text it is cut from. */
const windowUnits = 256

const broken = (cause?: unknown): MeshError =>
  new MeshError(
    Code.FAILED_PRECONDITION,
    'tokenizer.json cannot be used: the precompiled_charsmap of its normalizer is damaged; download it again.',
    { cause },
  )

/** The value of the shortest of a trie's keys that `key` begins with; null where it begins with none. */
const shortestPrefix = (units: Uint32Array, key: Uint8Array): number | null => {
  let at = offsetOf(units[0])
  for (const byte of key) {
    if (byte === 0) return null
    at ^= byte
    const unit = units[at]
    if (unit === undefined || (unit & 0x8000_00ff) !== byte) return null
    at ^= offsetOf(unit)
    if (unit & 0x100) return units[at] & 0x7fff_ffff
  }
  return null
}

/** From a node of a double-array trie to its children (s-yata/darts-clone, details::DoubleArrayUnit). */
const offsetOf = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6)

/** [bytes of the trie, as a little-endian uint32 | the trie's units, likewise | replacements in UTF-8, each ended by a 0]. */
const parse = (encoded: string): { units: Uint32Array; replacements: Buffer } => {
  const bytes = Buffer.from(encoded, 'base64')
  if (bytes.length < 8) throw broken()
  const size = bytes.readUInt32LE(0)
  if (size === 0 || size % 4 !== 0 || bytes.length < 4 + size) throw broken()
  const units = Uint32Array.from({ length: size / 4 }, (_, unit) => bytes.readUInt32LE(4 + unit * 4))
  return { units, replacements: bytes.subarray(4 + size) }
}

/** The graphemes of a text. Where one ends depends on itself and the character behind it, so a window may begin wherever one does. */
function* graphemesOf(text: string): Generator<string> {
  let units = windowUnits
  for (let begin = 0; begin < text.length; ) {
    const segments = [...segmenter.segment(text.slice(begin, begin + units))]
    // The last of a window may go on behind it.
    const next = begin + units < text.length ? (segments.pop()?.index ?? 0) : units
    for (const { segment } of segments) yield segment
    begin += next
    units = next === 0 ? units * 2 : windowUnits
  }
}

/**
 * The normalization that a precompiled_charsmap (base64) stands for: google/sentencepiece's rules, applied as huggingface/tokenizers
 * does. Where a short grapheme begins with a rule's characters the replacement stands for the whole of it, so that marks behind them
 * are lost.
 * @throws MeshError FAILED_PRECONDITION where the map is damaged.
 */
export const openCharsmap = (encoded: string): ((text: string) => string) => {
  const { units, replacements } = parse(encoded)
  const replacement = (text: string): string | null => {
    const begin = shortestPrefix(units, Buffer.from(text))
    if (begin === null) return null
    const end = replacements.indexOf(0, begin)
    return replacements.toString('utf8', begin, end < 0 ? replacements.length : end)
  }
  return (text) => {
    let normalized = ''
    for (const grapheme of graphemesOf(text)) {
      const whole = Buffer.byteLength(grapheme) > graphemeBytesMax ? null : replacement(grapheme)
      if (whole !== null) normalized += whole
      else for (const character of grapheme) normalized += replacement(character) ?? character
    }
    return normalized
  }
}
