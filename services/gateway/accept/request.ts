import { randomBytes } from 'node:crypto'
import { invalid } from '../../../shared/errors.ts'
import type { GenerationRequest, Sampling } from '../sequence.ts'
import { checkBeamRoom, searchOf } from './beams.ts'
import { type ChatBody, type CompletionBody, chatBody, checked, choicesMax, completionBody } from './fields.ts'
import { lengthsOf } from './lengths.ts'
import { checkVocabulary, type Prompt, promptOfText, promptsOf } from './prompt.ts'
import { type Chat, requireModel, type Served } from './served.ts'

/** OpenAI's default for completions; chats run to the end of the context. */
const completionTokensDefault = 16

/** One API request, checked: the sequences to generate and how to tell of them. */
export type Work = {
  id: string
  kind: 'completion' | 'chat'
  /** One per choice, in the order of the response: all choices of the first prompt, then the next prompt's. */
  requests: readonly GenerationRequest[]
  /** Strings that end a choice; they are cut from its text. */
  stop: readonly string[]
  /** The prompt's text per choice, to stand before the output; null when not asked for. */
  echo: readonly string[] | null
  stream: boolean
  includeUsage: boolean
  returnTokenIds: boolean
  /** Small goes first in the queue. */
  priority: number
  /** Ms from acceptance after which the answer is of no use; null: never. */
  deadlineMs: number | null
  /** How long it goes on when its client is gone. */
  graceSeconds: number
}

type Body = CompletionBody | ChatBody

/** What differs between the two kinds of body. */
type Kind = Pick<Work, 'id' | 'kind'> & {
  logprobs: number | null
  promptLogprobs: boolean
  tokensDefault: number | null
}

const samplingOf = (served: Served, body: Body): Sampling => {
  const { defaults } = served
  const bias = Object.entries(body.logit_bias ?? {}).map(([id, value]): [number, number] => [Number(id), value])
  checkVocabulary(
    served,
    bias.map(([id]) => id),
    'logit_bias',
  )
  return {
    temperature: body.temperature ?? defaults.temperature,
    topP: body.top_p ?? defaults.topP,
    // Other servers write "no limit" as -1.
    topK: Math.max(0, body.top_k ?? defaults.topK),
    minP: body.min_p ?? defaults.minP,
    seed: body.seed === null || body.seed === undefined ? randomBytes(8).readBigUInt64LE() : seedOf(body.seed),
    repetitionPenalty: body.repetition_penalty ?? defaults.repetitionPenalty,
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    logitBias: new Map(bias),
  }
}

/** A seed as an unsigned 64-bit number; negative ones wrap around. */
const seedOf = (seed: number | bigint): bigint => BigInt.asUintN(64, BigInt(seed))

const checkChoices = (body: Body, prompts: number): number => {
  const n = body.n ?? 1
  if (body.best_of && body.best_of !== n && !body.use_beam_search)
    throw invalid('best_of is not supported unless it equals n: leave it out.', 'best_of')
  if (prompts * n > choicesMax)
    throw invalid(`${prompts} prompts with n = ${n} are more than ${choicesMax} choices: send several requests.`, 'n')
  return n
}

const stopsOf = (served: Served, body: Body): readonly string[] => {
  const stop = typeof body.stop === 'string' ? [body.stop] : (body.stop ?? [])
  if (stop.length > 0 && !served.tokenizer)
    throw invalid('This model has no tokenizer, so it has no text to stop at: use stop_token_ids.', 'stop')
  return stop
}

const checkUnsupported = (body: Body): void => {
  const format = body.response_format?.type ?? 'text'
  if (format !== 'text')
    throw invalid(
      `response_format ${format} is not supported: leave it out, or send {"type":"text"}.`,
      'response_format',
    )
  if (body.stream_options && !body.stream)
    throw invalid('stream_options only go with "stream": true.', 'stream_options')
}

/** An encoder reads the prompt, and the decoder goes on from its start id alone. */
const inputOf = ({ config }: Served, { ids }: Prompt): Pick<GenerationRequest, 'source' | 'prompt'> =>
  config.encoder ? { source: ids, prompt: [config.encoder.start] } : { source: [], prompt: ids }

const workOf = (served: Served, body: Body, prompts: readonly Prompt[], kind: Kind, echo: boolean): Work => {
  checkUnsupported(body)
  const n = checkChoices(body, prompts.length)
  const sampling = samplingOf(served, body)
  const search = searchOf(served, body)
  const stopIds = body.stop_token_ids ?? []
  checkVocabulary(served, stopIds, 'stop_token_ids')
  const choices = prompts.flatMap((prompt) => Array.from({ length: n }, (_, choice) => ({ prompt, choice })))
  const requests = choices.map(({ prompt, choice }, at): GenerationRequest => {
    const request = {
      id: choices.length === 1 ? kind.id : `${kind.id}-${at}`,
      model: served.name,
      ...inputOf(served, prompt),
      resume: [],
      ...lengthsOf(served, body, prompt, kind.tokensDefault),
      noRepeatNgram: body.no_repeat_ngram_size ?? served.defaults.noRepeatNgram,
      stopIds: [...new Set([...(body.ignore_eos ? [] : served.config.eos), ...stopIds])],
      sampling,
      search,
      choice,
      logprobs: kind.logprobs,
      promptLogprobs: kind.promptLogprobs,
      digest: body.logits_sha256 ?? false,
    }
    checkBeamRoom(served, request)
    return request
  })
  return {
    id: kind.id,
    kind: kind.kind,
    requests,
    stop: stopsOf(served, body),
    echo: echo ? choices.map(({ prompt }) => prompt.text) : null,
    stream: body.stream ?? false,
    includeUsage: body.stream_options?.include_usage ?? false,
    // Without a tokenizer there is no text: the ids are the answer.
    returnTokenIds: body.return_token_ids ?? !served.tokenizer,
    priority: body.priority ?? 0,
    deadlineMs: body.deadline_ms ?? null,
    graceSeconds: body.reconnect_grace_seconds ?? 0,
  }
}

/**
 * POST /v1/completions. Throws INVALID_ARGUMENT naming the field at fault (reason context_length_exceeded where the
 * context is), NOT_FOUND for another model. Without max_tokens the model's own number or `tokensDefault` are generated; null is to the
 * end of the context.
 */
export const acceptCompletion = (
  served: Served,
  json: unknown,
  id: string,
  tokensDefault: number | null = completionTokensDefault,
): Work => {
  const body = checked(completionBody, json)
  requireModel(served, body.model)
  if (body.suffix) throw invalid('suffix is not supported: this model only continues a prompt.', 'suffix')
  const prompts = promptsOf(served, body.prompt, body.add_special_tokens ?? true)
  const logprobs = body.logprobs ?? null
  const echo = body.echo ?? false
  if (echo && served.config.encoder)
    throw invalid(
      "echo is not supported: this encoder–decoder's output does not go on from its prompt, and the prompt has no log-probabilities.",
      'echo',
    )
  const promptLogprobs = echo && logprobs !== null
  const kind: Kind = { id, kind: 'completion', logprobs, promptLogprobs, tokensDefault }
  return workOf(served, body, prompts, kind, echo)
}

const toolsOf = (served: Served, body: ChatBody): ChatBody['tools'] => {
  if (body.functions?.length) throw invalid('functions are not supported: send tools.', 'functions')
  if (!body.tools?.length || body.tool_choice === 'none') return null
  if (!served.chat?.takesTools) throw invalid("This model's chat template has no place for tools: send none.", 'tools')
  if (body.tool_choice && body.tool_choice !== 'auto')
    throw invalid('tool_choice must be "auto" or "none": the model cannot be forced to call a tool.', 'tool_choice')
  return body.tools
}

/** Templates write content as it is, so the parts of one become a text, a line each. */
const asText = (message: ChatBody['messages'][number]): Record<string, unknown> =>
  Array.isArray(message.content) ? { ...message, content: message.content.map(({ text }) => text).join('\n') } : message

const chatOf = ({ config, chat }: Served): Chat => {
  if (config.encoder)
    throw invalid(
      'This model is an encoder–decoder and takes no chats: use /v1/completions with the source text as prompt.',
      'messages',
    )
  if (!chat) throw invalid('This model has no chat template: use /v1/completions with a prompt.', 'messages')
  return chat
}

/** The ids a chat becomes. Throws INVALID_ARGUMENT where the model has no chat template or no tokenizer. */
export const promptOfChat = (
  served: Served,
  messages: ChatBody['messages'],
  options: { addGenerationPrompt: boolean; tools: ChatBody['tools'] },
): Prompt => {
  const text = chatOf(served).render(messages.map(asText), { ...options, tools: options.tools ?? null })
  // The template writes the special tokens itself.
  return promptOfText(served, text, false, 'messages')
}

/** POST /v1/chat/completions; throws as acceptCompletion does. */
export const acceptChat = (served: Served, json: unknown, id: string): Work => {
  const body = checked(chatBody, json)
  requireModel(served, body.model)
  chatOf(served)
  const tools = toolsOf(served, body)
  if (body.top_logprobs && !body.logprobs)
    throw invalid('top_logprobs only goes with "logprobs": true.', 'top_logprobs')
  const prompt = promptOfChat(served, body.messages, { addGenerationPrompt: body.add_generation_prompt ?? true, tools })
  const logprobs = body.logprobs ? (body.top_logprobs ?? 0) : null
  const kind: Kind = { id, kind: 'chat', logprobs, promptLogprobs: false, tokensDefault: null }
  return workOf(served, body, [prompt], kind, false)
}
