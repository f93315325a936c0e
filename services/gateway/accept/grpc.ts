import { randomUUID } from 'node:crypto'
import type { ServerWritableStream, sendUnaryData } from '@grpc/grpc-js'
import { invalid } from '../../../shared/errors.ts'
import type { GenerateRequest__Output } from '../../../shared/gen/expertmesh/v1/GenerateRequest.ts'
import type { GenerateResponse } from '../../../shared/gen/expertmesh/v1/GenerateResponse.ts'
import type { InferenceServiceHandlers } from '../../../shared/gen/expertmesh/v1/InferenceService.ts'
import type { Logprob } from '../../../shared/gen/expertmesh/v1/Logprob.ts'
import { statusOf } from '../../../shared/status.ts'
import type { TokenLogprob } from '../sequence.ts'
import { deadlineMsMax } from './fields.ts'
import { checkRoom, type GenerateParts, generate } from './generate.ts'
import { kindOf, tokenText } from './openai.ts'
import { encode } from './prompt.ts'
import { acceptCompletion, type Work } from './request.ts'
import { tenantOf } from './requests.ts'
import type { Served } from './served.ts'
import { textOf } from './text.ts'

/** A float32 as the shortest decimal that means it, so that 0.7 draws the same tokens here and over HTTP. */
const decimal = (value: number | undefined): number | undefined =>
  value === undefined ? undefined : Number(value.toPrecision(7))

/** The value that JSON has; what is no such name is left for the checks to refuse. */
const earlyStopping = (name: string | undefined): unknown => (name === 'true' ? true : name === 'false' ? false : name)

const workOf = (served: Served, request: GenerateRequest__Output): Work => {
  if (request.prompt === undefined && !request.prompt_ids)
    throw invalid('The input is missing: set prompt or prompt_ids.', 'prompt')
  const bias = Object.entries(request.logit_bias ?? {})
  const body = {
    model: request.model,
    prompt: request.prompt ?? request.prompt_ids?.ids,
    max_tokens: request.max_tokens || undefined,
    min_tokens: request.min_tokens,
    temperature: decimal(request.temperature),
    top_p: decimal(request.top_p),
    top_k: request.top_k,
    min_p: decimal(request.min_p),
    seed: request.seed === undefined ? undefined : BigInt(request.seed),
    repetition_penalty: decimal(request.repetition_penalty),
    presence_penalty: decimal(request.presence_penalty),
    frequency_penalty: decimal(request.frequency_penalty),
    logit_bias: Object.fromEntries(bias.map(([id, value]) => [id, decimal(value)])),
    stop: request.stop,
    stop_token_ids: request.stop_token_ids,
    ignore_eos: request.ignore_eos,
    no_repeat_ngram_size: request.no_repeat_ngram_size,
    logprobs: request.logprobs,
    logits_sha256: request.logits_sha256,
    num_beams: request.num_beams,
    length_penalty: decimal(request.length_penalty),
    early_stopping: earlyStopping(request.early_stopping),
  }
  return acceptCompletion(served, body, `gen-${randomUUID()}`, null)
}

/** The chosen token first, then its alternatives. */
const logprobsOf = (served: Served, logprob: TokenLogprob | null): Logprob[] =>
  logprob
    ? [logprob, ...logprob.top].map(({ id, logprob: value }) => ({ id, token: tokenText(served, id), logprob: value }))
    : []

type GenerateCall = ServerWritableStream<GenerateRequest__Output, GenerateResponse>

/** Resolves when the client has room for more; at once when the call is over. */
const write = (call: GenerateCall, message: GenerateResponse, signal: AbortSignal): Promise<void> => {
  if (signal.aborted || call.write(message)) return Promise.resolve()
  return new Promise((resolve) => {
    const settle = (): void => {
      call.off('drain', settle)
      signal.removeEventListener('abort', settle)
      resolve()
    }
    call.once('drain', settle)
    signal.addEventListener('abort', settle, { once: true })
  })
}

/** Ms until the caller's deadline; null for none, or one so far away that it means none. */
const deadlineOf = (call: GenerateCall): number | null => {
  const left = Number(call.getDeadline()) - Date.now()
  return left <= deadlineMsMax ? Math.max(1, Math.ceil(left)) : null
}

const stream = async (parts: GenerateParts, call: GenerateCall): Promise<void> => {
  const gone = new AbortController()
  // Also the deadline's end.
  call.once('cancelled', () => gone.abort())
  const sender = { tenant: tenantOf(String(call.metadata.get('authorization')[0] ?? '')), key: null }
  checkRoom(parts, sender.tenant)
  const work = { ...workOf(parts.served, call.request), deadlineMs: deadlineOf(call) }
  const generation = await generate(parts, work, sender, gone.signal)
  for await (const piece of generation.pieces) {
    if (piece.kind === 'prompt') continue
    const usage = generation.usage()
    const last: GenerateResponse = piece.finish
      ? {
          finish_reason: piece.finish,
          logits_sha256: piece.logitsSha256 ?? '',
          usage: {
            prompt_tokens: usage.promptTokens,
            completion_tokens: usage.completionTokens,
            cached_tokens: usage.cachedTokens,
          },
        }
      : {}
    const { index, token, text } = piece
    const logprobs = logprobsOf(parts.served, piece.logprob)
    await write(call, { id: work.id, index, ids: [token], text, logprobs, ...last }, gone.signal)
  }
}

const unary = <T>(answer: () => T, callback: sendUnaryData<T>): void => {
  try {
    callback(null, answer())
  } catch (error) {
    callback(statusOf(error))
  }
}

/** Handlers of expertmesh.v1.InferenceService: the same work as the HTTP API, one choice per call. */
export const inferenceHandlers = (parts: GenerateParts): InferenceServiceHandlers => ({
  Generate(call) {
    stream(parts, call).then(
      () => call.end(),
      (error) => call.emit('error', statusOf(error)),
    )
  },
  Models(_, callback) {
    const { name, hash, config, precision } = parts.served
    const { family, contextLength } = config
    const kind = kindOf(parts.served)
    callback(null, { models: [{ id: name, hash, family, precision, context_length: contextLength, kind }] })
  },
  Tokenize({ request }, callback) {
    unary(() => {
      const ids = encode(parts.served, request.text, request.add_special_tokens ?? true, 'text')
      return { ids: [...ids], tokens: ids.map((id) => tokenText(parts.served, id)) }
    }, callback)
  },
  Detokenize({ request }, callback) {
    unary(() => ({ text: textOf(parts.served, request.ids, 'ids') }), callback)
  },
})
