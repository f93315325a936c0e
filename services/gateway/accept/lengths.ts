import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import type { GenerationRequest } from '../sequence.ts'
import type { ChatBody, CompletionBody } from './fields.ts'
import type { Prompt } from './prompt.ts'
import type { Served } from './served.ts'

type Body = CompletionBody | ChatBody

const maxTokensOf = (served: Served, body: Body, prompt: Prompt, tokensDefault: number | null): number => {
  const { contextLength, encoder } = served.config
  const room = contextLength - (encoder ? 1 : prompt.ids.length)
  const asked = body.max_completion_tokens ?? body.max_tokens
  if (asked === null || asked === undefined) {
    const said = encoder ? served.defaults.maxTokens : null
    return Math.min(room, said ?? tokensDefault ?? room)
  }
  if (asked <= room) return asked
  const param = body.max_completion_tokens ? 'max_completion_tokens' : 'max_tokens'
  const limit = encoder
    ? `This model's output has at most ${room} tokens`
    : `This model's context is ${contextLength} tokens: ${prompt.ids.length} of prompt leave room for ${room}`
  throw new MeshError(Code.INVALID_ARGUMENT, `${limit}, and ${param} is ${asked}.`, {
    param,
    reason: 'context_length_exceeded',
  })
}

/**
 * How long an output may and must become: as asked, else as generation_config.json says of an encoder–decoder, else `tokensDefault`
 * tokens at most, null being to the end of the context. @throws MeshError INVALID_ARGUMENT where there is no room for it.
 */
export const lengthsOf = (
  served: Served,
  body: Body,
  prompt: Prompt,
  tokensDefault: number | null,
): Pick<GenerationRequest, 'maxTokens' | 'minTokens'> => {
  const maxTokens = maxTokensOf(served, body, prompt, tokensDefault)
  const said = served.config.encoder ? Math.min(served.defaults.minTokens, maxTokens) : 0
  const minTokens = body.min_tokens ?? said
  if (minTokens > maxTokens)
    throw invalid(`min_tokens is ${minTokens}, more than the ${maxTokens} tokens there may be.`, 'min_tokens')
  return { maxTokens, minTokens }
}
