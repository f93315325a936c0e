import type { Piece } from './generate.ts'
import { type Shape, tokenText } from './openai.ts'
import type { Work } from './request.ts'
import type { Served } from './served.ts'

type Entry = { token: string; logprob: number; bytes: number[] | null }
type Logprobs = { content: (Entry & { top_logprobs: Entry[] })[]; refusal: null }

type Chunk = {
  index: number
  delta: { role?: 'assistant'; content?: string }
  logprobs: Logprobs | null
  finish_reason: string | null
  token_ids?: readonly number[]
  logits_sha256?: string
}

/** POST /v1/chat/completions' choices. */
export const messageShape = (served: Served, work: Work): Shape<Chunk> => {
  const entry = ({ id, logprob }: { id: number; logprob: number }): Entry => {
    const bytes = served.tokenizer?.token(id).bytes
    return { token: tokenText(served, id), logprob, bytes: bytes ? [...bytes] : null }
  }
  const logprobsOf = ({ logprob }: Piece): Logprobs | null =>
    logprob && { content: [{ ...entry(logprob), top_logprobs: logprob.top.map(entry) }], refusal: null }

  return {
    whole: 'chat.completion',
    part: 'chat.completion.chunk',
    open: () =>
      work.requests.map((_, index) => ({
        index,
        delta: { role: 'assistant', content: '' },
        logprobs: null,
        finish_reason: null,
      })),
    chunk(piece) {
      if (piece.kind === 'prompt') throw new RangeError('chats do not ask for log-probabilities of the prompt')
      return {
        index: piece.choice,
        delta: { content: piece.text },
        logprobs: logprobsOf(piece),
        finish_reason: piece.finish,
        ...(work.returnTokenIds ? { token_ids: [piece.token] } : {}),
        ...(piece.logitsSha256 ? { logits_sha256: piece.logitsSha256 } : {}),
      }
    },
    merge(chunks) {
      const { delta: _, ...last } = chunks[chunks.length - 1]
      const content = chunks.flatMap((chunk) => chunk.logprobs?.content ?? [])
      return {
        ...last,
        message: {
          role: 'assistant',
          content: chunks.map((chunk) => chunk.delta.content ?? '').join(''),
          refusal: null,
        },
        logprobs: content.length > 0 ? { content, refusal: null } : null,
        ...(work.returnTokenIds ? { token_ids: chunks.flatMap((chunk) => chunk.token_ids ?? []) } : {}),
      }
    },
  }
}
