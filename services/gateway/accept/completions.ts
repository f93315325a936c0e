import type { TokenLogprob } from '../sequence.ts'
import type { OpenTextStream, Piece, PromptPiece } from './generate.ts'
import { type Shape, tokenText } from './openai.ts'
import { promptIds } from './prompt.ts'
import type { Work } from './request.ts'
import type { Served } from './served.ts'

/** Parallel lists, one entry per token; text_offset counts characters of the choice's text. */
type Logprobs = {
  tokens: string[]
  token_logprobs: (number | null)[]
  top_logprobs: (Record<string, number> | null)[]
  text_offset: number[]
}

type Chunk = {
  index: number
  text: string
  logprobs: Logprobs | null
  finish_reason: string | null
  token_ids?: readonly number[]
  prompt_token_ids?: readonly number[]
  logits_sha256?: string
}

/** The likeliest tokens and the chosen one, by text; of two ids with one text the likelier stands. */
const topOf = (served: Served, logprob: TokenLogprob): Record<string, number> => {
  const top: Record<string, number> = {}
  for (const { id, logprob: value } of [...logprob.top, logprob]) top[tokenText(served, id)] ??= value
  return top
}

const one = (served: Served, id: number, logprob: TokenLogprob | null, offset: number): Logprobs => ({
  tokens: [tokenText(served, id)],
  token_logprobs: [logprob?.logprob ?? null],
  top_logprobs: [logprob && topOf(served, logprob)],
  text_offset: [offset],
})

const joined = (parts: readonly Logprobs[]): Logprobs => ({
  tokens: parts.flatMap((part) => part.tokens),
  token_logprobs: parts.flatMap((part) => part.token_logprobs),
  top_logprobs: parts.flatMap((part) => part.top_logprobs),
  text_offset: parts.flatMap((part) => part.text_offset),
})

/** POST /v1/completions' choices. A token whose text is held back has the offset at which that text will stand. */
export const completionShape = (served: Served, work: Work, openTextStream: OpenTextStream): Shape<Chunk> => {
  const offsets = work.requests.map(() => 0)
  const withIds = (choice: number, ids: readonly number[]) =>
    work.returnTokenIds ? { prompt_token_ids: promptIds(work.requests[choice]), token_ids: ids } : {}

  const promptLogprobs = ({ choice, logprobs }: PromptPiece): Logprobs => {
    const text = served.tokenizer && openTextStream({ prompt: [], stop: [], minTokens: 0 })
    let offset = 0
    return joined(
      work.requests[choice].prompt.map((id, at) => {
        const entry = one(served, id, logprobs[at] ?? null, offset)
        offset += text?.push(id).text.length ?? 0
        return entry
      }),
    )
  }

  const echo = (choice: number, logprobs: Logprobs | null): Chunk => {
    const text = work.echo?.[choice] ?? ''
    offsets[choice] += text.length
    return { index: choice, text, logprobs, finish_reason: null, ...withIds(choice, []) }
  }

  const token = (piece: Piece): Chunk => {
    const offset = offsets[piece.choice]
    offsets[piece.choice] += piece.text.length
    return {
      index: piece.choice,
      text: piece.text,
      logprobs: piece.logprob && one(served, piece.token, piece.logprob, offset),
      finish_reason: piece.finish,
      ...(work.returnTokenIds ? { token_ids: [piece.token] } : {}),
      ...(piece.logitsSha256 ? { logits_sha256: piece.logitsSha256 } : {}),
    }
  }

  return {
    whole: 'text_completion',
    part: 'text_completion',
    // With log-probabilities of the prompt, the echo comes with them.
    open: () =>
      work.requests.flatMap((request, choice) =>
        request.promptLogprobs || !(work.echo || work.returnTokenIds) ? [] : [echo(choice, null)],
      ),
    chunk: (piece) => (piece.kind === 'prompt' ? echo(piece.choice, promptLogprobs(piece)) : token(piece)),
    merge(chunks) {
      const logprobs = chunks.flatMap((chunk) => chunk.logprobs ?? [])
      const merged = Object.assign({}, ...chunks) as Chunk
      if (merged.token_ids) merged.token_ids = chunks.flatMap((chunk) => chunk.token_ids ?? [])
      merged.text = chunks.map((chunk) => chunk.text).join('')
      merged.logprobs = logprobs.length > 0 ? joined(logprobs) : null
      return merged
    },
  }
}
