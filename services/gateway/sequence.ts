/** How the next token is drawn. Defaults that change nothing: temperature 1, topP 1, topK 0, minP 0, penalties 0 and repetition 1. */
export type Sampling = {
  /** 0 is greedy: the lowest id among the largest logits. */
  temperature: number
  topP: number
  /** 0: no limit. */
  topK: number
  minP: number
  /** Always set: a request without one is given one when it is accepted. An unsigned 64-bit number. */
  seed: bigint
  /** HF's repetition penalty, over prompt and output. */
  repetitionPenalty: number
  /** OpenAI's penalties, over the output alone. */
  presencePenalty: number
  frequencyPenalty: number
  logitBias: ReadonlyMap<number, number>
}

/** One sequence to generate, as it crosses from the API to the engine. Plain data: it survives structuredClone and a queue. */
export type GenerationRequest = {
  id: string
  model: string
  prompt: readonly number[]
  maxTokens: number
  minTokens: number
  /** Ids that end the sequence (they are emitted, with finish 'stop'); empty with ignore_eos. */
  stopIds: readonly number[]
  sampling: Sampling
  /** Index among the n choices of one API request; part of the sampler's counter. */
  choice: number
  /** null: no log-probabilities; otherwise how many alternatives besides the chosen token. */
  logprobs: number | null
  /** Also report prompt log-probabilities (completions' echo with logprobs). */
  promptLogprobs: boolean
  /** Compute the digest of every position's logits. */
  digest: boolean
}

export type TokenLogprob = { id: number; logprob: number; top: readonly { id: number; logprob: number }[] }

export type FinishReason = 'stop' | 'length' | 'cancelled'

/** One generated token. index counts from 0 over the output; digest is SHA-256 of the position's little-endian fp32 logits. */
export type TokenEvent = {
  id: string
  index: number
  token: number
  logprob: TokenLogprob | null
  digest: Uint8Array | null
  finish: FinishReason | null
}

/** What the engine says of a request besides tokens. */
export type EngineEvent =
  | { kind: 'started'; id: string; cachedTokens: number }
  | { kind: 'prompt'; id: string; logprobs: readonly (TokenLogprob | null)[] }
  | ({ kind: 'token' } & TokenEvent)
  | { kind: 'failed'; id: string; code: number; message: string }

/** What the API may ask of the engine. */
export type Engine = {
  submit(request: GenerationRequest, onEvent: (event: EngineEvent) => void): void
  cancel(id: string): void
}

/** A sequence inside the engine: the one noun that crosses batch, forward and stream. */
export type Sequence = {
  readonly request: GenerationRequest
  /** Prompt followed by output. */
  readonly ids: number[]
  /** Tokens whose keys and values are in the cache; ids.length − cached are still to run. */
  cached: number
  status: 'waiting' | 'running' | 'finished'
  /** Order of arrival: lower goes first and is preempted last. */
  readonly arrival: number
}
