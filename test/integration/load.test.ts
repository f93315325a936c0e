import { readdirSync, readFileSync } from 'node:fs'
import OpenAI from 'openai'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Cluster, startCluster } from '../support/cluster.ts'
import { seeded } from '../support/random.ts'

const clients = 32
const outputTokens = 48
const requests = 2_000
/** Requests until caches, pools and compiled code have their size. */
const warmUp = 1_000
/** Memory may wander with garbage collection, but must not follow the number of requests. */
const growthMax = 0.1
const slackMiB = 32
/** Of each process: what waits for the collector stays small, so that resident memory shows what is kept. Some 45 are in use. */
const heapMiB = 80

let cluster: Cluster
let client: OpenAI

beforeAll(async () => {
  cluster = await startCluster({
    precision: 'int8',
    workers: 2,
    env: { NODE_OPTIONS: `--max-old-space-size=${heapMiB}` },
  })
  client = new OpenAI({ baseURL: `${cluster.url}/v1`, apiKey: 'none', maxRetries: 0 })
})
afterAll(async () => {
  expect(await cluster?.stop()).toBe(0)
})

const starts = ['And it came to pass', 'La commande', 'Die Datei', 'const client = new', 'The file']

type Extended = OpenAI.CompletionChoice & { token_ids: number[]; logits_sha256?: string }

/** Streams one seeded completion: its ids and the digest of its logits. */
const stream = async (index: number): Promise<{ ids: number[]; digest: string | undefined }> => {
  const ids: number[] = []
  let digest: string | undefined
  const prompt = `${starts[index % starts.length]} ${index}`
  const extra = { ignore_eos: true, return_token_ids: true, logits_sha256: true }
  const params = {
    model: 'demo',
    prompt,
    max_tokens: outputTokens,
    temperature: 0.9,
    top_p: 0.95,
    seed: index,
    stream: true,
  }
  const chunks = await client.completions.create({ ...params, ...extra } as OpenAI.CompletionCreateParamsStreaming)
  for await (const { choices } of chunks) {
    const choice = choices[0] as Extended
    ids.push(...choice.token_ids)
    digest ??= choice.logits_sha256
  }
  return { ids, digest }
}

it(`${clients} streaming clients at once get what each gets alone`, async () => {
  const together = await Promise.all(Array.from({ length: clients }, (_, index) => stream(index)))
  for (const { ids } of together) expect(ids).toHaveLength(outputTokens)
  expect(new Set(together.map(({ digest }) => digest)).size).toBe(clients)
  for (const [index, expected] of together.entries()) expect(await stream(index)).toEqual(expected)
})

/** The cluster's processes and their resident memory. */
const resident = (): Map<number, number> => {
  const status = (pid: number): string => {
    try {
      return readFileSync(`/proc/${pid}/status`, 'utf8')
    } catch {
      // It ended since the folder was read.
      return ''
    }
  }
  const own = Number(cluster.process.pid)
  const children = readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && Number(/PPid:\s+(\d+)/.exec(status(pid))?.[1]) === own)
  return new Map([own, ...children].map((pid) => [pid, Number(/VmRSS:\s+(\d+)/.exec(status(pid))?.[1]) / 1024]))
}

it(`memory stays flat over ${requests} requests`, { timeout: 240_000 }, async () => {
  const next = seeded(5)
  let sent = 0
  const one = async (): Promise<void> => {
    while (sent < until) {
      sent++
      const prompt = Array.from({ length: 8 + next(40) }, () => 2 + next(4000))
      const answer = await client.completions.create({
        model: 'demo',
        prompt,
        max_tokens: 4,
        temperature: 1,
        seed: sent,
      })
      expect(answer.choices).toHaveLength(1)
    }
  }
  const all = () => Promise.all(Array.from({ length: clients }, one))
  let until = warmUp
  await all()
  const before = resident()
  until = requests
  await all()
  const after = resident()
  expect(after.size).toBe(before.size)
  for (const [pid, was] of before) {
    const is = after.get(pid) ?? Number.POSITIVE_INFINITY
    console.info(`process ${pid}: ${was.toFixed(0)} MiB after ${warmUp} requests, ${is.toFixed(0)} after ${requests}`)
    expect(is).toBeLessThan(was * (1 + growthMax) + slackMiB)
  }
})
