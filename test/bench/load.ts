/** Requests whose tokens are timed where a client sees them: on the gateway's gRPC stream. */
import { credentials, loadPackageDefinition } from '@grpc/grpc-js'
import { type Arrivals, rates } from '../../services/cli/client.ts'
import type { GenerateResponse__Output } from '../../shared/gen/expertmesh/v1/GenerateResponse.ts'
import type { ProtoGrpcType } from '../../shared/gen/inference.ts'
import { channelOptions, loadProto } from '../../shared/rpc.ts'
import { seeded } from '../support/random.ts'

const MESSAGE_MAX_BYTES = 1 << 20
export const PREFILL_TOKENS = 512
export const DECODE_TOKENS = 64
export const STREAMS = 8
/** Long enough to be a prompt, short enough not to weigh in a decode. */
const SHORT_PROMPT_TOKENS = 16

/** Tokens per second. */
export type Client = {
  /** A prompt of 512 tokens over the time to its first token. */
  prefill(): Promise<number>
  /** 64 tokens after the first, one sequence. */
  decode(): Promise<number>
  /** 64 tokens of each of 8 sequences that start together, over the time from the first request to the last token. */
  streams(): Promise<number>
  close(): void
}

/** Prompts are random and no two begin alike, so that no prefix is found in a cache. */
export const openClient = (address: string, vocabulary: number, seed: number): Client => {
  const { expertmesh } = loadPackageDefinition(loadProto('inference')) as unknown as ProtoGrpcType
  const { InferenceService } = expertmesh.v1
  const client = new InferenceService(address, credentials.createInsecure(), channelOptions(MESSAGE_MAX_BYTES))
  const next = seeded(seed)
  const generate = async (promptTokens: number, tokens: number): Promise<Arrivals> => {
    const ids = Array.from({ length: promptTokens }, () => next(vocabulary))
    const begun = performance.now()
    const arrivals: Arrivals = { firstMs: 0, lastMs: 0, afterFirst: 0 }
    const request = { prompt_ids: { ids }, max_tokens: tokens, temperature: 0, ignore_eos: true }
    for await (const { ids } of client.Generate(request) as AsyncIterable<GenerateResponse__Output>) {
      if (ids.length === 0) continue
      arrivals.lastMs = performance.now() - begun
      if (arrivals.firstMs === 0) arrivals.firstMs = arrivals.lastMs
      else arrivals.afterFirst += ids.length
    }
    return arrivals
  }
  return {
    async prefill() {
      return known(rates(PREFILL_TOKENS, await generate(PREFILL_TOKENS, 1)).prefill_tokens_per_second)
    },
    async decode() {
      const arrivals = await generate(SHORT_PROMPT_TOKENS, 1 + DECODE_TOKENS)
      return known(rates(SHORT_PROMPT_TOKENS, arrivals).decode_tokens_per_second)
    },
    async streams() {
      const begun = performance.now()
      await Promise.all(Array.from({ length: STREAMS }, () => generate(SHORT_PROMPT_TOKENS, DECODE_TOKENS)))
      return (STREAMS * DECODE_TOKENS * 1000) / (performance.now() - begun)
    },
    close: () => client.close(),
  }
}

const known = (rate: number | null): number => {
  if (rate !== null) return rate
  throw new Error('the gateway sent fewer tokens than it was asked for')
}
