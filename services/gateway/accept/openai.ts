import { createHash } from 'node:crypto'
import type { Piece, PromptPiece, Usage } from './generate.ts'
import type { Work } from './request.ts'
import type { Served } from './served.ts'

/** How a choice is told of, in parts or whole: what differs between completions and chats. */
export type Shape<Chunk> = {
  /** The `object` of a whole answer and of a part of one. */
  whole: string
  part: string
  /** Told before the first token. */
  open(): readonly Chunk[]
  chunk(piece: Piece | PromptPiece): Chunk
  /** All chunks of one choice, in order, as one choice. */
  merge(chunks: readonly Chunk[]): object
}

/** A stable name for what computes the answers: the same fingerprint, seed and request give the same tokens. */
export const fingerprint = (served: Served): string =>
  `fp_${createHash('sha256').update(`${served.hash}:${served.numericClass}`).digest('hex').slice(0, 16)}`

export const kindOf = ({ config }: Served): 'decoder' | 'encoder-decoder' =>
  config.encoder ? 'encoder-decoder' : 'decoder'

export const modelBody = (served: Served) => ({
  id: served.name,
  object: 'model',
  created: served.created,
  owned_by: 'expertmesh',
  root: served.name,
  max_model_len: served.config.contextLength,
  kind: kindOf(served),
  family: served.config.family,
  precision: served.precision,
  hash: served.hash,
})

export const usageBody = (usage: Usage) => ({
  prompt_tokens: usage.promptTokens,
  completion_tokens: usage.completionTokens,
  total_tokens: usage.promptTokens + usage.completionTokens,
  prompt_tokens_details: { cached_tokens: usage.cachedTokens },
})

/** What stands around the choices of a whole answer or a part. `created` is in Unix seconds. */
export const envelope = (served: Served, work: Work, object: string, created: number, choices: readonly object[]) => ({
  id: work.id,
  object,
  created,
  model: served.name,
  system_fingerprint: fingerprint(served),
  choices,
})

/** A token as text of its own. Part of a character shows as U+FFFD; without a tokenizer it is the id. */
export const tokenText = (served: Served, id: number): string => served.tokenizer?.token(id).text ?? `token_id:${id}`
