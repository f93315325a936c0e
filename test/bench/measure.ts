import { startCluster } from '../support/cluster.ts'
import { seeded } from '../support/random.ts'

/** What one cluster did in one round. */
export type Figures = {
  /** Tokens a second of a prompt of 512, until its first token. */
  prefill: number
  /** Tokens a second of one stream. */
  decode: number
  /** Tokens a second of eight streams together. */
  streams8: number
  /** Share of a step's time outside kernels, the gateway's and the experts': prefill and decode. */
  outsidePrefill: number
  outsideDecode: number
}

export type Bench = { name: string; measure(round: number): Promise<Figures>; stop(): Promise<unknown> }

const promptTokens = 512
const outputTokens = 64
const streams = 8
const vocabulary = 4000

/** Starts a cluster and warms it; prompts differ in every round, so that no prefix is found. */
export const startBench = async (
  name: string,
  options: { model: string; workers: number; precision: 'fp32' | 'int8'; cache: string },
): Promise<Bench> => {
  console.error(`${name}: starting (converts weights the first time)`)
  const { url, stop } = await startCluster({ ...options, args: ['--cache', options.cache] })
  const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] }
  const draw = seeded(options.workers)
  const prompt = (length: number): number[] => Array.from({ length }, () => 2 + draw(vocabulary))
  const generate = (length: number, tokens: number) => stream(url, data[0].id, prompt(length), tokens)
  await generate(32, 8)

  const measure = async (round: number): Promise<Figures> => {
    console.error(`${name}: round ${round}`)
    const start = await phases(url)
    const { firstMs } = await generate(promptTokens, 1)
    const middle = await phases(url)
    const { restMs } = await generate(8, outputTokens + 1)
    const end = await phases(url)
    const begun = performance.now()
    await Promise.all(Array.from({ length: streams }, () => generate(8, outputTokens)))
    const streamsMs = performance.now() - begun
    return {
      prefill: (promptTokens / firstMs) * 1000,
      decode: (outputTokens / restMs) * 1000,
      streams8: ((streams * outputTokens) / streamsMs) * 1000,
      outsidePrefill: outside(start, middle),
      outsideDecode: outside(middle, end),
    }
  }
  return { name, measure, stop }
}

/** Times of a streamed greedy completion as its client sees them: to the first token, and from there to the last. */
const stream = async (url: string, model: string, prompt: readonly number[], tokens: number) => {
  const begun = performance.now()
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, prompt, max_tokens: tokens, temperature: 0, ignore_eos: true, stream: true }),
  })
  if (!response.ok || !response.body) throw new Error(await response.text())
  let firstAt = 0
  let lastAt = 0
  const decoder = new TextDecoder()
  for await (const chunk of response.body) {
    if (!decoder.decode(chunk, { stream: true }).includes('data: {')) continue
    lastAt = performance.now()
    firstAt ||= lastAt
  }
  return { firstMs: firstAt - begun, restMs: lastAt - firstAt }
}

type Phases = ReadonlyMap<string, number>

/** Longer than the engine's reports are apart, so that the last one is in. */
const reportMs = 600

/** Seconds by phase, since the start. */
const phases = async (url: string): Promise<Phases> => {
  await new Promise((resolve) => setTimeout(resolve, reportMs))
  const text = await (await fetch(`${url}/metrics`)).text()
  const lines = text.matchAll(/^expertmesh_step_seconds_total\{phase="(\w+)".*\} (\S+)$/gm)
  return new Map([...lines].map(([, phase, seconds]) => [phase, Number(seconds)]))
}

const outside = (before: Phases, after: Phases): number => {
  const spent = (phase: string): number => (after.get(phase) ?? 0) - (before.get(phase) ?? 0)
  return 1 - (spent('kernel') + spent('experts')) / spent('step')
}
