import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import type { GenerationRequest } from '../sequence.ts'
import { choicesMax } from './fields.ts'
import type { Served } from './served.ts'

/** More characters than this per token of the context are refused unread: encoding them would hold up everyone. */
const charactersPerToken = 256

/** The ids a client calls the prompt. */
export const promptIds = ({ source, prompt }: GenerationRequest): readonly number[] =>
  source.length > 0 ? source : prompt

/** A prompt as ids, and as the text a caller who asks for an echo gets. */
export type Prompt = { ids: readonly number[]; text: string }

const tooLong = ({ config }: Served, length: string, param: string): MeshError => {
  const limit = config.encoder
    ? `this model's encoder reads at most ${config.contextLength} tokens`
    : `this model's context is ${config.contextLength} tokens, prompt and output together`
  return new MeshError(Code.INVALID_ARGUMENT, `The prompt has ${length} and ${limit}: shorten it.`, {
    param,
    reason: 'context_length_exceeded',
  })
}

/** Throws INVALID_ARGUMENT unless every id is in the vocabulary. */
export const checkVocabulary = (served: Served, ids: readonly number[], param: string): void => {
  const { vocabulary } = served.config
  const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary)
  if (wrong !== undefined)
    throw invalid(`Token id ${wrong} is outside the vocabulary: ids run from 0 to ${vocabulary - 1}.`, param)
}

/** Throws INVALID_ARGUMENT unless there is a prompt, it leaves room for a token, and every id is in the vocabulary. */
const checkIds = (served: Served, ids: readonly number[], param: string): void => {
  if (ids.length === 0) throw invalid('The prompt is empty: send at least one token.', param)
  const { contextLength, encoder } = served.config
  // A source shares its room with no output.
  if (ids.length > contextLength - (encoder ? 0 : 1)) throw tooLong(served, `${ids.length} tokens`, param)
  checkVocabulary(served, ids, param)
}

/** Text to ids. Throws INVALID_ARGUMENT where the model has no tokenizer, and, before reading it, on far too long a text. */
export const encode = (served: Served, text: string, addSpecialTokens: boolean, param: string): readonly number[] => {
  if (!served.tokenizer)
    throw invalid(
      "This model's folder has no tokenizer.json, so it takes no text: send the prompt as token ids, a list of numbers.",
      param,
    )
  if (text.length > served.config.contextLength * charactersPerToken)
    throw tooLong(served, `${text.length} characters`, param)
  return served.tokenizer.encode(text, { addSpecialTokens })
}

export const promptOfText = (served: Served, text: string, addSpecialTokens: boolean, param: string): Prompt => {
  const ids = encode(served, text, addSpecialTokens, param)
  checkIds(served, ids, param)
  return { ids, text }
}

/** Ids as they are, nothing prepended. */
export const promptOfIds = (served: Served, ids: readonly number[], param: string): Prompt => {
  checkIds(served, ids, param)
  return { ids, text: served.tokenizer?.decode(ids, { skipSpecialTokens: true }) ?? '' }
}

const shapes = 'a string, a list of strings, a list of token ids, or a list of lists of token ids'

const isIds = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((entry) => typeof entry === 'number')

/** The prompts of a completion body: string, string[], number[] (one prompt) or number[][]. */
export const promptsOf = (served: Served, prompt: unknown, addSpecialTokens: boolean): Prompt[] => {
  if (prompt === undefined || prompt === null) throw invalid(`prompt is missing: send ${shapes}.`, 'prompt')
  if (typeof prompt === 'string') return [promptOfText(served, prompt, addSpecialTokens, 'prompt')]
  if (!Array.isArray(prompt)) throw invalid(`prompt must be ${shapes}, not ${typeof prompt}.`, 'prompt')
  if (prompt.length === 0) throw invalid(`prompt is an empty list: send ${shapes}.`, 'prompt')
  if (typeof prompt[0] === 'number' && isIds(prompt)) return [promptOfIds(served, prompt, 'prompt')]
  if (prompt.length > choicesMax)
    throw invalid(`prompt holds ${prompt.length} prompts: at most ${choicesMax} go into one request.`, 'prompt')
  return prompt.map((entry: unknown, at) => {
    const param = `prompt.${at}`
    if (typeof entry === 'string') return promptOfText(served, entry, addSpecialTokens, param)
    if (isIds(entry)) return promptOfIds(served, entry, param)
    throw invalid(`prompt must be ${shapes}; entry ${at} fits none of them.`, 'prompt')
  })
}
