import { z } from 'zod'
import { invalid, type MeshError } from '../../../shared/errors.ts'

/** Choices one API request may ask for: prompts × n. */
export const choicesMax = 128
/** Stop strings of a request, and the characters of one: text is held back while it might become one. */
export const stopsMax = 4
export const stopCharactersMax = 1024
/** 0 goes first; as many classes as the queue has. */
export const priorityMax = 7
/** A day; timers hold no more than 24. */
export const deadlineMsMax = 86_400_000
/** A request whose client is gone runs on for at most this long. */
export const graceSecondsMax = 3_600
/** Beams of one search. */
export const beamsMax = 64
/** Beyond, scores of long outputs leave the range of doubles. */
const lengthPenaltyMax = 10
/** Alternatives reported beside the chosen token. */
export const logprobsMax = 20

const integer = z.int()
const share = z.number().min(0).max(1)
const penalty = z.number().min(-2).max(2)
const stop = z
  .string()
  .min(1, 'a stop string cannot be empty')
  .max(stopCharactersMax, `a stop string has at most ${stopCharactersMax} characters`)

/** What bodies and generation_config.json say of a beam search, by transformers' names. */
export const search = {
  num_beams: integer.min(1).max(beamsMax).nullish(),
  length_penalty: z.number().min(-lengthPenaltyMax).max(lengthPenaltyMax).nullish(),
  early_stopping: z.union([z.boolean(), z.literal('never')], { error: 'must be true, false or "never"' }).nullish(),
}

/** Fields of both kinds of body: OpenAI's, then those other servers add. null is as good as absent. */
const generation = {
  model: z.string().nullish(),
  max_tokens: integer.min(1, 'must be at least 1').nullish(),
  max_completion_tokens: integer.min(1, 'must be at least 1').nullish(),
  temperature: z.number().min(0).nullish(),
  top_p: share.nullish(),
  n: integer.min(1).max(choicesMax).nullish(),
  best_of: search.num_beams,
  ...search,
  use_beam_search: z.boolean().nullish(),
  stop: z.union([stop, z.array(stop).max(stopsMax, `at most ${stopsMax} stop strings`)], {
    error: `must be a string or a list of at most ${stopsMax} strings, each of 1 to ${stopCharactersMax} characters`,
  }),
  // JSON carries 53 bits exactly; a caller within the process may hand over 64.
  seed: z.union([integer, z.bigint()], { error: 'must be an integer within ±(2^53 - 1)' }).nullish(),
  presence_penalty: penalty.nullish(),
  frequency_penalty: penalty.nullish(),
  logit_bias: z.record(z.string().regex(/^\d+$/, 'keys are token ids'), z.number().min(-100).max(100)).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  response_format: z.object({ type: z.string() }).nullish(),
  top_k: integer.min(-1).nullish(),
  min_p: share.nullish(),
  repetition_penalty: z.number().positive().nullish(),
  min_tokens: integer.min(0).nullish(),
  no_repeat_ngram_size: integer.min(0).nullish(),
  ignore_eos: z.boolean().nullish(),
  stop_token_ids: z.array(integer).nullish(),
  return_token_ids: z.boolean().nullish(),
  logits_sha256: z.boolean().nullish(),
  priority: integer.min(0).max(priorityMax).nullish(),
  deadline_ms: integer.min(1, 'must be at least 1').max(deadlineMsMax).nullish(),
  reconnect_grace_seconds: z.number().min(0).max(graceSecondsMax).nullish(),
}

export const completionBody = z.object({
  ...generation,
  stop: generation.stop.nullish(),
  // Checked by hand: of four shapes a union could only say that none fits.
  prompt: z.unknown().optional(),
  suffix: z.string().nullish(),
  echo: z.boolean().nullish(),
  logprobs: integer.min(0).max(logprobsMax).nullish(),
  add_special_tokens: z.boolean().nullish(),
})
export type CompletionBody = z.infer<typeof completionBody>

const part = z.object({
  type: z.literal('text', { error: 'only text content is supported' }),
  text: z.string(),
})
const message = z.looseObject({
  role: z.string(),
  content: z
    .union([z.string(), z.array(part)], { error: 'must be a string or a list of {"type":"text","text":…} parts' })
    .nullish(),
})

export const chatBody = z.object({
  ...generation,
  stop: generation.stop.nullish(),
  messages: z.array(message).min(1, 'must hold at least one message'),
  logprobs: z.boolean().nullish(),
  top_logprobs: integer.min(0).max(logprobsMax).nullish(),
  tools: z.array(z.looseObject({ type: z.string() })).nullish(),
  tool_choice: z.unknown().optional(),
  functions: z.array(z.unknown()).nullish(),
  add_generation_prompt: z.boolean().nullish(),
})
export type ChatBody = z.infer<typeof chatBody>

export const tokenizeBody = z.object({
  model: z.string().nullish(),
  prompt: z.string().nullish(),
  messages: z.array(message).nullish(),
  add_special_tokens: z.boolean().nullish(),
  add_generation_prompt: z.boolean().nullish(),
  return_token_strs: z.boolean().nullish(),
})

export const detokenizeBody = z.object({ model: z.string().nullish(), tokens: z.array(integer.min(0)) })

const complaint = (error: z.ZodError): MeshError => {
  const issue = error.issues[0]
  const param = issue.path.join('.')
  const message = issue.message.replace(/^Invalid input: /, '').replace('expected int,', 'expected integer,')
  return param ? invalid(`${param}: ${message}.`, param) : invalid(`The body must be a JSON object: ${message}.`)
}

/** The body as the schema describes it. Throws INVALID_ARGUMENT naming the first field at fault. */
export const checked = <T>(schema: z.ZodType<T>, body: unknown): T => {
  const result = schema.safeParse(body)
  if (!result.success) throw complaint(result.error)
  return result.data
}
