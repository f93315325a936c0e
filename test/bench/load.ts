/** Loads whose tokens are timed where a client sees them, the same for whatever serves the model. */
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
export const SHORT_PROMPT_TOKENS = 16

export type Answer = Arrivals & { ids: number[] }

/** What serves a model. */
export type Server = {
  /** Makes room for so many sequences at a time, of so many tokens each. */
  room(sequences: number, tokens: number): Promise<void>
  /** The greedy continuation of a prompt, past whatever ends a text. */
  generate(ids: readonly number[], tokens: number): Promise<Answer>
  close(): Promise<void>
}

/** Tokens per second. */
export type Loads = {
  /** A prompt of 512 tokens over the time to its first token. */
  prefill(): Promise<number>
  /** 64 tokens after the first, one sequence; the last of them is token `context`. */
  decode(context?: number): Promise<number>
  /** So many tokens of each of `count` sequences that start together, over the time from the first request to the last token. */
  streams(count?: number, tokens?: number): Promise<number>
}

/** Prompts are random and no two begin alike, so that no prefix is found in a cache. */
export const openLoads = ({ room, generate }: Server, vocabulary: number, seed: number): Loads => {
  const next = seeded(seed)
  const prompt = (tokens: number): number[] => Array.from({ length: tokens }, () => next(vocabulary))
  return {
    async prefill() {
      await room(1, PREFILL_TOKENS + 1)
      return known(rates(PREFILL_TOKENS, await generate(prompt(PREFILL_TOKENS), 1)).prefill_tokens_per_second)
    },
    async decode(context = SHORT_PROMPT_TOKENS + DECODE_TOKENS + 1) {
      await room(1, context)
      const answer = await generate(prompt(context - DECODE_TOKENS - 1), 1 + DECODE_TOKENS)
      return known(rates(SHORT_PROMPT_TOKENS, answer).decode_tokens_per_second)
    },
    async streams(count = STREAMS, tokens = DECODE_TOKENS) {
      await room(count, SHORT_PROMPT_TOKENS + tokens)
      const prompts = Array.from({ length: count }, () => prompt(SHORT_PROMPT_TOKENS))
      const begun = performance.now()
      await Promise.all(prompts.map((ids) => generate(ids, tokens)))
      return (count * tokens * 1000) / (performance.now() - begun)
    },
  }
}

/** A gateway's gRPC. */
export const openGateway = (address: string): Server => {
  const { expertmesh } = loadPackageDefinition(loadProto('inference')) as unknown as ProtoGrpcType
  const { InferenceService } = expertmesh.v1
  const client = new InferenceService(address, credentials.createInsecure(), channelOptions(MESSAGE_MAX_BYTES))
  return {
    async room() {},
    async generate(prompt, tokens) {
      const begun = performance.now()
      const answer: Answer = { firstMs: 0, lastMs: 0, afterFirst: 0, ids: [] }
      const request = { prompt_ids: { ids: [...prompt] }, max_tokens: tokens, temperature: 0, ignore_eos: true }
      for await (const { ids } of client.Generate(request) as AsyncIterable<GenerateResponse__Output>) {
        if (ids.length === 0) continue
        answer.lastMs = performance.now() - begun
        if (answer.firstMs === 0) answer.firstMs = answer.lastMs
        else answer.afterFirst += ids.length
        answer.ids.push(...ids)
      }
      return answer
    },
    async close() {
      client.close()
    },
  }
}

const known = (rate: number | null): number => {
  if (rate !== null) return rate
  throw new Error('fewer tokens came than were asked for')
}
