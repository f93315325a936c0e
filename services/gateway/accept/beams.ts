import { invalid } from '../../../shared/errors.ts'
import type { BeamSettings, GenerationRequest } from '../sequence.ts'
import type { ChatBody, CompletionBody } from './fields.ts'
import type { Served } from './served.ts'

type Body = CompletionBody | ChatBody

const isAsked = (value: unknown): boolean => value !== null && value !== undefined

/** Fields that say how tokens are drawn, or that a search has no place for: who sends one wants no search. */
const drawing = [
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'seed',
  'presence_penalty',
  'frequency_penalty',
  'repetition_penalty',
  'logit_bias',
  'stop',
  'n',
] as const

const beamsOf = ({ defaults }: Served, body: Body): number => {
  const { num_beams, use_beam_search, best_of } = body
  if (use_beam_search === false && (num_beams ?? 1) > 1)
    throw invalid('num_beams asks for a beam search and use_beam_search for none: leave one out.', 'use_beam_search')
  if (use_beam_search === false) return 1
  const asked = num_beams ?? (use_beam_search ? best_of : null)
  if (asked) return asked
  if (use_beam_search) throw invalid('use_beam_search needs a number of beams: send num_beams.', 'use_beam_search')
  return drawing.some((field) => isAsked(body[field])) ? 1 : defaults.beams
}

/**
 * The beam search that a request asks for, or generation_config.json where the request says nothing of how tokens are drawn; null for
 * none. transformers' and older vLLM's names. @throws MeshError INVALID_ARGUMENT naming what does not go with beams.
 */
export const searchOf = (served: Served, body: Body): BeamSettings | null => {
  const beams = beamsOf(served, body)
  if (beams === 1) {
    const field = (['length_penalty', 'early_stopping'] as const).find((name) => isAsked(body[name]))
    if (field) throw invalid(`${field} only goes with a beam search: send num_beams, or leave it out.`, field)
    return null
  }
  const { defaults, room } = served
  if (beams > room.sequences)
    throw invalid(`There are ${beams} beams, and this gateway runs ${room.sequences} sequences at most.`, 'num_beams')
  const unfit = unfitting(body, defaults.repetitionPenalty)
  if (unfit) throw invalid(`${unfit} does not go with a beam search: leave it out, or num_beams.`, unfit)
  return {
    beams,
    lengthPenalty: body.length_penalty ?? defaults.lengthPenalty,
    earlyStopping: body.early_stopping ?? defaults.earlyStopping,
  }
}

/** The first field that a search could not do as it asks; drawing's cuts change nothing where nothing is drawn. */
const unfitting = (body: Body, repetitionPenalty: number): string | null => {
  const asks = {
    temperature: (body.temperature ?? 0) > 0,
    n: (body.n ?? 1) > 1,
    stop: (body.stop ?? []).length > 0,
    logit_bias: Object.keys(body.logit_bias ?? {}).length > 0,
    presence_penalty: (body.presence_penalty ?? 0) !== 0,
    frequency_penalty: (body.frequency_penalty ?? 0) !== 0,
    repetition_penalty: (body.repetition_penalty ?? repetitionPenalty) !== 1,
    echo: 'echo' in body && body.echo === true && isAsked(body.logprobs),
  }
  return Object.entries(asks).find(([, asked]) => asked)?.[0] ?? null
}

/** @throws MeshError INVALID_ARGUMENT where the beams of a request cannot all lie in the KV cache beside its source. */
export const checkBeamRoom = (
  { room }: Served,
  { source, prompt, maxTokens, search }: Pick<GenerationRequest, 'source' | 'prompt' | 'maxTokens' | 'search'>,
): void => {
  if (!search) return
  const blocks = (tokens: number) => Math.ceil(tokens / room.blockRows)
  // The last token is in nobody's past.
  const tokens = prompt.length + maxTokens - 1
  const needed = search.beams * blocks(tokens) + blocks(source.length)
  if (needed <= room.cacheBlocks) return
  const beside = source.length > 0 ? ` beside a source of ${source.length}` : ''
  throw invalid(
    `${search.beams} beams of ${tokens} tokens${beside} take ${needed} blocks of the KV cache, which has ${room.cacheBlocks} of ${room.blockRows} tokens each: ask for fewer beams or a smaller max_tokens, or start the gateway with a larger --kv-memory-mib.`,
    'num_beams',
  )
}
