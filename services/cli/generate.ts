import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { invalid } from '../../shared/errors.ts'
import type { GenerateRequest } from '../../shared/gen/expertmesh/v1/GenerateRequest.ts'
import { type Completion, generateOver } from './client.ts'
import { reportProgress, startCluster } from './cluster.ts'
import { addClusterFlags, type ClusterOptions, decimal, whole } from './flags.ts'
import { stopSignal } from './signals.ts'

export type GenerateOptions = ClusterOptions & {
  prompt?: string
  ids?: number[]
  maxTokens: number
  temperature?: number
  topP?: number
  topK?: number
  minP?: number
  seed?: string
  numBeams?: number
  lengthPenalty?: number
  earlyStopping?: 'true' | 'false' | 'never'
  ignoreEos?: boolean
  json?: boolean
  verbose?: boolean
}

const ID_MAX = 2 ** 32 - 1
const SEED_MAX = 2n ** 64n - 1n
const TEMPERATURE_MAX = 100

/** `1,2,3` → [1,2,3]. */
export const parseIds = (text: string): number[] =>
  text.split(',').map((part) => {
    const id = /^\s*\d+\s*$/.test(part) ? Number(part) : Number.NaN
    if (id <= ID_MAX) return id
    throw new InvalidArgumentError(`It must be token ids separated by commas, such as 1,2,3; "${part}" is none.`)
  })

/** Kept as text: a seed may be larger than a double holds exactly. */
const parseSeed = (text: string): string => {
  if (/^\d+$/.test(text) && BigInt(text) <= SEED_MAX) return text
  throw new InvalidArgumentError('It must be a whole number below 2^64.')
}

export const generateCommand = (): Command =>
  addClusterFlags(new Command('generate'))
    .description('Starts a cluster on this machine, generates once, ends it')
    .option('--prompt <text>', 'text to go on from; the source where the model has an encoder')
    .option('--ids <list>', 'the same as token ids, taken as they are', parseIds)
    .option('--max-tokens <n>', 'most tokens to generate', whole(1), 64)
    .option('--temperature <t>', "0 is greedy (default: the model's own)", decimal(0, TEMPERATURE_MAX))
    .option('--top-p <p>', 'nucleus sampling', decimal(0, 1))
    .option('--top-k <k>', 'sample among the k best; 0 is all', whole(0, ID_MAX))
    .option('--min-p <p>', 'drop tokens less likely than p times the best', decimal(0, 1))
    .option('--seed <n>', 'the same seed gives the same text', parseSeed)
    .option('--num-beams <n>', 'search with so many beams instead of drawing; the text comes at the end', whole(1))
    .option('--length-penalty <p>', 'of a search: above 0 favours long outputs, below 0 short ones', decimal(-10, 10))
    .addOption(
      new Option('--early-stopping <when>', 'of a search: whether to end when as many outputs as beams have').choices([
        'true',
        'false',
        'never',
      ]),
    )
    .option('--ignore-eos', 'go on after the end-of-sequence token')
    .option('--json', 'print one JSON object with ids, text, logits_sha256, usage and timing')
    .option('--verbose', "show the processes' whole log")
    .action(generate)

/** @throws MeshError INVALID_ARGUMENT unless exactly one of prompt and ids is given. */
export const toRequest = (options: GenerateOptions): GenerateRequest => {
  const { prompt, ids } = options
  if ((prompt === undefined) === (ids === undefined)) throw invalid('give either --prompt TEXT or --ids 1,2,3')
  return {
    ...(prompt === undefined ? { prompt_ids: { ids: ids ?? [] } } : { prompt }),
    max_tokens: options.maxTokens,
    ...(options.temperature === undefined ? {} : { temperature: options.temperature }),
    ...(options.topP === undefined ? {} : { top_p: options.topP }),
    ...(options.topK === undefined ? {} : { top_k: options.topK }),
    ...(options.minP === undefined ? {} : { min_p: options.minP }),
    ...(options.seed === undefined ? {} : { seed: options.seed }),
    ...(options.numBeams === undefined ? {} : { num_beams: options.numBeams }),
    ...(options.lengthPenalty === undefined ? {} : { length_penalty: options.lengthPenalty }),
    ...(options.earlyStopping === undefined ? {} : { early_stopping: options.earlyStopping }),
    ignore_eos: options.ignoreEos ?? false,
    logits_sha256: options.json ?? false,
  }
}

/** The object --json prints; text is null for a checkpoint without a tokenizer. */
export const report = (completion: Completion, hasTokenizer: boolean): Record<string, unknown> => ({
  ids: completion.ids,
  text: hasTokenizer ? completion.text : null,
  logits_sha256: completion.logitsSha256,
  finish_reason: completion.finishReason,
  usage: completion.usage,
  timing: completion.timing,
})

const generate = async (options: GenerateOptions): Promise<void> => {
  const request = toRequest(options)
  const hasTokenizer = existsSync(join(options.model, 'tokenizer.json'))
  const signal = stopSignal()
  // One answer and no server: nothing is to last.
  const once = { listen: '127.0.0.1:0', grpcListen: '127.0.0.1:0', redis: 'none' }
  const cluster = await startCluster({ ...options, ...once }, signal, options.verbose ?? false)
  const endProgress = options.json ? reportProgress('generating') : () => {}
  try {
    const onText = (text: string): void => {
      if (!options.json) process.stdout.write(text)
    }
    const call = generateOver(cluster.grpc, request, { token: null, signal, onText })
    const completion = await cluster.during(call)
    if (options.json) console.log(JSON.stringify(report(completion, hasTokenizer)))
    else console.log(hasTokenizer ? '' : completion.ids.join(','))
  } finally {
    endProgress()
    await cluster.stop()
  }
}
