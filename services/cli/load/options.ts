import { Command, InvalidArgumentError, Option } from 'commander'
import { invalid } from '../../../shared/errors.ts'
import { decimal, whole } from '../flags.ts'
import { type Lengths, lengths } from './lengths.ts'
import type { Endpoint } from './workload.ts'

/** The flags of `expertmesh load`, as commander gives them. */
export type LoadOptions = {
  url?: string[]
  tokenFile?: string
  model?: string
  endpoint: Endpoint
  plain?: boolean
  rate?: number
  burstiness: number
  concurrency?: number
  trace?: string
  requests?: number
  duration?: number
  maxConcurrency: number
  inputLen: Lengths
  outputLen: Lengths
  vocabulary: number
  prompts?: string
  distinct?: number
  temperature: number
  seed: number
  timeout: number
  stallMs?: number
  resume?: boolean
  check?: boolean
  golden?: string
  writeGolden?: string
  allowRefused?: boolean
  json?: string
}

export const DEFAULT_URL = 'http://127.0.0.1:8080'
export const DEFAULT_CONCURRENCY = 8
/** Requests where nothing else bounds the run, and different ones where only time does. */
export const DEFAULT_REQUESTS = 100

const REQUESTS_MAX = 10_000_000
const DURATION_MAX_S = 86_400
const IN_FLIGHT_MAX = 16_384
const RATE_MAX = 100_000
const TEMPERATURE_MAX = 100
const VOCABULARY_MAX = 2 ** 24

/** A gateway's address, with or without the /v1 that OpenAI clients put behind it. */
export const baseUrl = (text: string): string => {
  if (URL.canParse(text)) {
    const { protocol, search, hash } = new URL(text)
    if (/^https?:$/.test(protocol) && search === '' && hash === '') return text.replace(/\/+$/, '').replace(/\/v1$/, '')
  }
  throw new InvalidArgumentError('It must be http://HOST:PORT or https://HOST:PORT.')
}

const append = (text: string, all: string[] = []): string[] => [...all, baseUrl(text)]

const positive =
  (max: number) =>
  (text: string): number => {
    const value = decimal(0, max)(text)
    if (value > 0) return value
    throw new InvalidArgumentError('It must be more than 0.')
  }

const addTarget = (command: Command): Command =>
  command
    .option('--url <url>', `an OpenAI-compatible server; repeated, they take turns (default: ${DEFAULT_URL})`, append)
    .option('--token-file <file>', 'file with the token to send')
    .option('--model <name>', "the model to ask for (default: the server's first)")
    .addOption(
      new Option('--endpoint <name>', 'which API to ask').choices(['completions', 'chat']).default('completions'),
    )
    .option('--plain', "send OpenAI's own fields and text only: for servers that refuse others")

const addPace = (command: Command): Command =>
  command
    .option('--rate <r>', 'open loop: r requests a second, whether or not answers come', positive(RATE_MAX))
    .option('--burstiness <b>', 'with --rate: 1 is Poisson, less comes in bursts, more is steadier', positive(1e6), 1)
    .option(
      '--concurrency <n>',
      `closed loop: always n requests under way (default: ${DEFAULT_CONCURRENCY})`,
      whole(1, IN_FLIGHT_MAX),
    )
    .option('--trace <file>', 'replay JSON lines {"at_ms", "prompt" or "prompt_tokens", "max_tokens"} at their times')
    .option(
      '--requests <n>',
      `end after n (default: ${DEFAULT_REQUESTS} without --duration, a file's lines with one)`,
      whole(1, REQUESTS_MAX),
    )
    .option('--duration <s>', 'start nothing after s seconds', positive(DURATION_MAX_S))
    .option(
      '--max-concurrency <n>',
      'open loop: with n under way, arrivals wait, and the result says how many',
      whole(1, IN_FLIGHT_MAX),
      1024,
    )

const addPrompts = (command: Command): Command =>
  command
    .addOption(
      new Option(
        '--input-len <d>',
        "prompt tokens: N, A-B (uniform), or MEAN~SIGMA[/MAX] (lognormal: MEAN its mean, SIGMA its logarithm's deviation, cut at MAX); with chat or --plain, words",
      )
        .argParser(lengths)
        .default(lengths('128'), '128'),
    )
    .addOption(
      new Option('--output-len <d>', 'tokens asked for, likewise; end-of-sequence tokens are ignored')
        .argParser(lengths)
        .default(lengths('64'), '64'),
    )
    .option('--vocabulary <n>', 'random prompts are of ids below n', whole(2, VOCABULARY_MAX), 1000)
    .option('--prompts <file>', 'take prompts from JSON lines {"prompt" or "messages", "max_tokens", ...} in turn')
    .option(
      '--distinct <n>',
      `different random requests, which then repeat (default: as many as --requests; to check with --duration alone, ${DEFAULT_REQUESTS})`,
      whole(1, REQUESTS_MAX),
    )
    .option('--temperature <t>', '0 is greedy', decimal(0, TEMPERATURE_MAX), 0)
    .option('--seed <n>', 'the same seed gives the same arrivals, lengths, prompts and samples', whole(0), 0)

const addChecks = (command: Command): Command =>
  command
    .option('--timeout <s>', 'a request that takes longer has failed', positive(DURATION_MAX_S), 300)
    .option(
      '--stall-ms <n>',
      'a stream silent for n ms counts as broken (default: never)',
      whole(1, DURATION_MAX_S * 1000),
    )
    .option('--resume', 'take up broken streams at the next --url, and repeat what was not accepted')
    .option(
      '--check',
      'ask every different request once alone first; ids and logits must be the same under load (a prefix cache then knows the prompts)',
    )
    .option('--golden <file>', 'check against the answers in this file instead')
    .option('--write-golden <file>', '--check, and keep the answers in this file')
    .option('--allow-refused', 'answers of 429 do not make the exit status 1')
    .option('--json <file>', 'write the result as one JSON object')

/** Without its action. */
export const loadFlags = (): Command =>
  addChecks(addPrompts(addPace(addTarget(new Command('load')))))
    .description(
      'Measures a server under load: sends requests, times every token, prints what vllm bench serve prints. The exit status is 0 when nothing failed',
    )
    .addHelpText(
      'after',
      `
Latencies run from the time at which a request should have been sent, so a server that falls behind shows.

  expertmesh load --concurrency 16 --requests 200 --check
  expertmesh load --rate 5 --duration 60 --input-len 200~0.6/900 --output-len 16-128
  expertmesh load --url http://a:8080 --url http://b:8080 --rate 5 --duration 600 --resume --golden answers.json`,
    )

/** @throws MeshError INVALID_ARGUMENT for choices that contradict each other. */
export const checkOptions = (options: LoadOptions): void => {
  const { rate, concurrency, trace, prompts, distinct, check, golden, writeGolden, plain } = options
  if ([rate, concurrency, trace].filter((chosen) => chosen !== undefined).length > 1)
    throw invalid('choose one of --rate, --concurrency and --trace')
  if (trace !== undefined && prompts !== undefined) throw invalid('a trace has its own prompts: leave out --prompts')
  if (distinct !== undefined && (trace ?? prompts) !== undefined)
    throw invalid('--distinct is for random prompts: a file has as many as it has lines')
  if (golden !== undefined && (check || writeGolden !== undefined))
    throw invalid('--golden checks against a file, --check and --write-golden ask first: choose one')
  if (plain && (check || golden !== undefined || writeGolden !== undefined))
    throw invalid('--plain asks for no token ids, so there is nothing to check')
}
