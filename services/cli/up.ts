import { Command } from 'commander'
import { Code, MeshError } from '../../shared/errors.ts'
import { generateOver } from './client.ts'
import { type Cluster, count, say, startCluster } from './cluster.ts'
import { addClusterFlags, type ClusterOptions, readToken, whole } from './flags.ts'
import { aborted, stopSignal } from './signals.ts'

type UpOptions = ClusterOptions & { prove?: boolean; maxTokens: number; verbose?: boolean }

const PROOF_PROMPT = 'And the LORD said unto Moses'
/** A prompt on the command line asks for one answer and no server: any free ports will do, and nothing is to last. */
const ONE_ANSWER = { listen: '127.0.0.1:0', grpcListen: '127.0.0.1:0', redis: 'none' }

export const upCommand = (): Command =>
  addClusterFlags(new Command('up'))
    .description(
      'Starts a gateway and workers on this machine and serves until Ctrl-C; with a prompt, answers it and ends',
    )
    .argument('[prompt...]', 'stream the greedy completion of this text, then end')
    .option('--listen <address>', 'HOST:PORT of the HTTP API')
    .option('--grpc-listen <address>', 'HOST:PORT of the gRPC API')
    .option('--token-file <file>', 'file with the token that guards both')
    .option('--insecure', 'listen off loopback without a token')
    .option('--prove', 'stream one completion to the terminal once everything runs')
    .option('--max-tokens <n>', 'length of the completion shown', whole(1), 40)
    .option('--verbose', "show the processes' whole log")
    .action(up)

const up = async (words: readonly string[], options: UpOptions): Promise<void> => {
  const signal = stopSignal()
  const prompt = words.join(' ')
  const cluster = await startCluster({ ...(prompt ? ONE_ANSWER : {}), ...options }, signal, options.verbose ?? false)
  try {
    if (prompt) return await stream(cluster, prompt, options, signal)
    console.log(`listening ${cluster.http}\nlistening grpc ${cluster.grpc}`)
    if (options.prove) await stream(cluster, PROOF_PROMPT, options, signal)
    console.log(await cluster.during(curlLine(cluster.http, options.tokenFile)))
    say('serving until Ctrl-C')
    await cluster.during(aborted(signal))
    say(`ending the gateway and ${count(options.workers, 'worker')}`)
  } catch (thrown) {
    if (!signal.aborted) throw thrown
  } finally {
    await cluster.stop()
  }
}

/** Streams prompt and greedy completion to stdout. */
const stream = async (cluster: Cluster, prompt: string, options: UpOptions, signal: AbortSignal): Promise<void> => {
  process.stdout.write(prompt)
  const request = { prompt, max_tokens: options.maxTokens, temperature: 0 }
  const onText = (text: string): void => void process.stdout.write(text)
  const call = generateOver(cluster.grpc, request, { token: readToken(options.tokenFile), signal, onText })
  const { timing } = await cluster.during(call).finally(() => process.stdout.write('\n'))
  const [prefill, decode] = [timing.prefill_tokens_per_second, timing.decode_tokens_per_second].map((rate) =>
    rate === null ? '–' : rate.toFixed(0),
  )
  say(`(prefill ${prefill} tokens/s, decode ${decode} tokens/s)`)
}

/** A command that asks this gateway for a completion. */
const curlLine = async (http: string, tokenFile: string | undefined): Promise<string> => {
  const token = readToken(tokenFile)
  const headers: Record<string, string> = token === null ? {} : { authorization: `Bearer ${token}` }
  const response = await fetch(`${http}/v1/models`, { headers })
  if (!response.ok) throw new MeshError(Code.UNAVAILABLE, `${http}/v1/models answers ${response.status}`)
  const { data } = (await response.json()) as { data: { id: string }[] }
  const body = JSON.stringify({ model: data[0].id, prompt: PROOF_PROMPT, max_tokens: 40, stream: true })
  const auth = tokenFile === undefined ? '' : ` -H "authorization: Bearer $(cat ${tokenFile})"`
  return `curl -N ${http}/v1/completions -H 'content-type: application/json'${auth} -d '${body}'`
}
