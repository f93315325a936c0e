import { invalid } from '../../../shared/errors.ts'
import { checked, detokenizeBody, tokenizeBody } from './fields.ts'
import { tokenText } from './openai.ts'
import { checkVocabulary, encode } from './prompt.ts'
import { promptOfChat } from './request.ts'
import { requireModel, type Served } from './served.ts'

/** POST /tokenize, in vLLM's shapes: the ids a prompt or a chat becomes. */
export const tokenize = (served: Served, json: unknown) => {
  const body = checked(tokenizeBody, json)
  requireModel(served, body.model)
  if (typeof body.prompt !== 'string' && !body.messages)
    throw invalid('prompt is missing: send text, or the messages of a chat.', 'prompt')
  const addGenerationPrompt = body.add_generation_prompt ?? true
  const ids = body.messages
    ? promptOfChat(served, body.messages, { addGenerationPrompt, tools: null }).ids
    : encode(served, body.prompt ?? '', body.add_special_tokens ?? true, 'prompt')
  return {
    count: ids.length,
    max_model_len: served.config.contextLength,
    tokens: ids,
    token_strs: body.return_token_strs ? ids.map((id) => tokenText(served, id)) : null,
  }
}

/** The text of ids. Throws INVALID_ARGUMENT where the model has no tokenizer or an id is outside the vocabulary. */
export const textOf = (served: Served, ids: readonly number[], param: string): string => {
  checkVocabulary(served, ids, param)
  if (!served.tokenizer) throw invalid('This model has no tokenizer, so its ids have no text.', param)
  return served.tokenizer.decode(ids, { skipSpecialTokens: false })
}

/** POST /detokenize, in vLLM's shapes. Special tokens are written out. */
export const detokenize = (served: Served, json: unknown) => {
  const body = checked(detokenizeBody, json)
  requireModel(served, body.model)
  return { prompt: textOf(served, body.tokens, 'tokens') }
}
