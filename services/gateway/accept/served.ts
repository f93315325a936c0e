import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { ModelConfig, Precision } from '../../../shared/model/config.ts'
import type { EngineRoom } from '../port.ts'
import type { BeamSettings } from '../sequence.ts'
import { search } from './fields.ts'

/** What the API needs of a tokenizer. */
export type Tokens = {
  encode(text: string, options: { addSpecialTokens: boolean }): readonly number[]
  decode(ids: readonly number[], options: { skipSpecialTokens: boolean }): string
  /** A token's own bytes, and their text, in which part of a character shows as U+FFFD. */
  token(id: number): { text: string; bytes: Uint8Array }
}

/** What the API needs of a chat template. Throws INVALID_ARGUMENT where the template refuses the messages. */
export type Chat = {
  render(
    messages: readonly Record<string, unknown>[],
    options: { addGenerationPrompt: boolean; tools: readonly Record<string, unknown>[] | null },
  ): string
  /** The template has a place for tools. */
  takesTools: boolean
}

/** What generation_config.json says of how tokens are chosen. */
export type SamplingDefaults = {
  temperature: number
  topP: number
  topK: number
  minP: number
  repetitionPenalty: number
  /** 0: no matter. */
  noRepeatNgram: number
  /** Of an encoder–decoder's output, whose start id transformers counts and these do not; null: nothing is said. */
  maxTokens: number | null
  minTokens: number
  /** 1: no search. */
  beams: number
} & Omit<BeamSettings, 'beams'>

/** What the engine has room for. */
export type Room = Pick<EngineRoom, 'cacheBlocks' | 'blockRows'> & {
  /** Sequences at a time; each beam of a search counts. */
  sequences: number
}

/** The one model a gateway serves, as the API sees it. */
export type Served = {
  /** The name clients ask for. */
  name: string
  /** Content hash of checkpoint, precision and shard format. */
  hash: string
  precision: Precision
  numericClass: string
  /** Unix seconds at which serving began. */
  created: number
  config: Pick<ModelConfig, 'family' | 'vocabulary' | 'contextLength' | 'encoder' | 'eos'>
  defaults: SamplingDefaults
  room: Room
  /** null: the model is served by token ids alone. */
  tokenizer: Tokens | null
  chat: Chat | null
}

const generationConfig = z.object({
  do_sample: z.boolean().nullish(),
  temperature: z.number().min(0).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().min(0).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().positive().nullish(),
  no_repeat_ngram_size: z.int().min(0).nullish(),
  max_length: z.int().min(1).nullish(),
  max_new_tokens: z.int().min(1).nullish(),
  min_length: z.int().min(0).nullish(),
  min_new_tokens: z.int().min(0).nullish(),
  ...search,
})

/** Defaults from a parsed generation_config.json. Its sampling counts only with do_sample; the rest is OpenAI's. */
export const samplingDefaults = (json: unknown): SamplingDefaults => {
  const result = generationConfig.safeParse(json)
  if (!result.success) {
    const issue = result.error.issues[0]
    throw new MeshError(Code.INVALID_ARGUMENT, `generation_config.json: ${issue.path.join('.')}: ${issue.message}.`)
  }
  const said = result.data
  const sampled = said.do_sample ? said : {}
  return {
    temperature: sampled.temperature ?? 1,
    topP: sampled.top_p ?? 1,
    topK: sampled.top_k ?? 0,
    minP: sampled.min_p ?? 0,
    repetitionPenalty: said.repetition_penalty ?? 1,
    noRepeatNgram: said.no_repeat_ngram_size ?? 0,
    maxTokens: said.max_new_tokens ?? (said.max_length ? Math.max(1, said.max_length - 1) : null),
    minTokens: said.min_new_tokens ?? Math.max(0, (said.min_length ?? 0) - 1),
    // A sampling model with beams is sampled from: what transformers does there is another search.
    beams: said.do_sample ? 1 : (said.num_beams ?? 1),
    lengthPenalty: said.length_penalty ?? 1,
    earlyStopping: said.early_stopping ?? false,
  }
}

/** Defaults of the model in `dir`; a folder without generation_config.json has OpenAI's. */
export const readSamplingDefaults = async (dir: string): Promise<SamplingDefaults> => {
  const text = await readFile(join(dir, 'generation_config.json'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '{}'
    throw error
  })
  try {
    return samplingDefaults(JSON.parse(text))
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw new MeshError(Code.INVALID_ARGUMENT, `generation_config.json is not JSON: ${(error as Error).message}.`)
  }
}

/** Throws NOT_FOUND unless `name` is absent, empty or the served model's. */
export const requireModel = (served: Served, name: string | null | undefined): void => {
  if (!name || name === served.name) return
  throw new MeshError(Code.NOT_FOUND, `The model ${name} does not exist here; this gateway serves ${served.name}.`, {
    param: 'model',
    reason: 'model_not_found',
  })
}
