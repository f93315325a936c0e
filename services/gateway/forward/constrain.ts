import type { Encoder } from '../../../shared/model/config.ts'
import type { GenerationRequest } from '../sequence.ts'

/** What may be drawn at one position. */
export type Constraint = {
  /** The only id; null: any that is not banned. */
  forced: number | null
  banned: readonly number[]
}

/** What would make the last n ids an n-gram that `ids` holds already. */
const repeating = (ids: readonly number[], n: number): readonly number[] => {
  const tail = ids.length - n + 1
  if (tail < 0) return []
  const repeats = (begin: number): boolean => {
    for (let at = 0; at < n - 1; at++) if (ids[begin + at] !== ids[tail + at]) return false
    return true
  }
  return ids.slice(n - 1).filter((_, begin) => repeats(begin))
}

/**
 * The constraint on the token that follows `output`, that of earlier attempts included. A pure function of its arguments, so a sequence
 * resumed anywhere goes on as it would have.
 *
 * These are transformers' logits processors (generation/logits_process.py): NoRepeatNGram, over prompt and output; MinNewTokensLength,
 * which bans the stop ids until min_tokens; NoBadWords (of one token) and SuppressTokens; SuppressTokensAtBegin, whose position is the
 * first that nothing is forced at; ForcedBOSToken; and ForcedEOSToken, which goes before ForcedBOSToken where an output has one token. A
 * forced id is drawn though it be suppressed, where transformers' SuppressTokens would leave nothing to draw.
 *
 * A last id that ends a sequence is forced where it does so: with ignore_eos it is no stop id, and a model without other constraints
 * decodes plainly. A decoder alone has the bans of its stop ids and of what repeats, and no other constraint.
 */
export const constrain = (
  encoder: Encoder | null,
  request: Pick<GenerationRequest, 'prompt' | 'stopIds' | 'minTokens' | 'maxTokens' | 'noRepeatNgram'>,
  output: readonly number[],
): Constraint => {
  const { prompt, stopIds, minTokens, maxTokens, noRepeatNgram } = request
  const generated = output.length
  const repeats = noRepeatNgram > 0 ? repeating([...prompt, ...output], noRepeatNgram) : []
  const banned = [...repeats, ...(generated < minTokens ? stopIds : [])]
  if (!encoder) return { forced: null, banned }
  const { forcedFirst, forcedLast, suppressed, suppressedFirst } = encoder
  const last = generated === maxTokens - 1 && forcedLast && (!forcedLast.ends || stopIds.includes(forcedLast.id))
  const forced = last ? forcedLast.id : generated === 0 ? forcedFirst : null
  if (forced !== null) return { forced, banned: [] }
  const first = generated === (forcedFirst === null ? 0 : 1) ? suppressedFirst : []
  return { forced, banned: [...suppressed, ...first, ...banned] }
}
