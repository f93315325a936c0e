import { Code, MeshError } from '../../shared/errors.ts'
import type { GenerateRequest } from '../../shared/gen/expertmesh/v1/GenerateRequest.ts'
import type { GenerateResponse__Output } from '../../shared/gen/expertmesh/v1/GenerateResponse.ts'
import type { ProtoGrpcType } from '../../shared/gen/inference.ts'

/** A message carries a few tokens; a long prompt's ids are the largest thing sent. */
const MESSAGE_MAX_BYTES = 64 * 2 ** 20

export type Completion = {
  ids: number[]
  text: string
  finishReason: string
  logitsSha256: string
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number; cached_tokens: number }
  timing: Timing
}

export type Timing = { prefill_tokens_per_second: number | null; decode_tokens_per_second: number | null }

/** When the first message and the last arrived, in ms after the call, and how many tokens came after the first message. */
export type Arrivals = { firstMs: number; lastMs: number; afterFirst: number }

/**
 * Rates as a client sees them: prefill is the prompt's tokens over the time to the first token (with sampling it and one
 * trip through gRPC), decode the tokens after the first message over the time they took. null: nothing to divide.
 */
export const rates = (promptTokens: number, { firstMs, lastMs, afterFirst }: Arrivals): Timing => {
  const rate = (tokens: number, ms: number): number | null => (tokens > 0 && ms > 0 ? (tokens * 1000) / ms : null)
  return {
    prefill_tokens_per_second: rate(promptTokens, firstMs),
    decode_tokens_per_second: rate(afterFirst, lastMs - firstMs),
  }
}

/**
 * Runs one Generate call to its end; onText gets each piece of text as it comes.
 * @throws MeshError with the gateway's code and sentence; CANCELLED when the signal aborts.
 */
export const generateOver = async (
  address: string,
  request: GenerateRequest,
  options: { token: string | null; signal: AbortSignal; onText: (text: string) => void },
): Promise<Completion> => {
  // Read when there is somebody to call: a cluster's processes would start that much later.
  const { credentials, loadPackageDefinition } = await import('@grpc/grpc-js')
  const { channelOptions, loadProto, tokenMetadata } = await import('../../shared/rpc.ts')
  const { expertmesh } = loadPackageDefinition(loadProto('inference')) as unknown as ProtoGrpcType
  const client = new expertmesh.v1.InferenceService(
    address,
    credentials.createInsecure(),
    channelOptions(MESSAGE_MAX_BYTES),
  )
  const begun = performance.now()
  const arrivals: Arrivals = { firstMs: 0, lastMs: 0, afterFirst: 0 }
  const ids: number[] = []
  let text = ''
  let last: GenerateResponse__Output | null = null
  try {
    const call = client.Generate(request, tokenMetadata(options.token))
    options.signal.addEventListener('abort', () => call.cancel(), { once: true })
    if (options.signal.aborted) call.cancel()
    for await (const message of call as AsyncIterable<GenerateResponse__Output>) {
      if (message.ids.length > 0) {
        arrivals.lastMs = performance.now() - begun
        if (ids.length === 0) arrivals.firstMs = arrivals.lastMs
        else arrivals.afterFirst += message.ids.length
      }
      ids.push(...message.ids)
      text += message.text
      options.onText(message.text)
      last = message
    }
  } catch (thrown) {
    throw MeshError.from(thrown)
  } finally {
    client.close()
  }
  if (!last?.usage) throw new MeshError(Code.DATA_LOSS, 'the gateway ended the stream without its last message')
  const { prompt_tokens, completion_tokens, cached_tokens } = last.usage
  return {
    ids,
    text,
    finishReason: last.finish_reason,
    logitsSha256: last.logits_sha256,
    usage: { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens, cached_tokens },
    timing: rates(prompt_tokens, arrivals),
  }
}
