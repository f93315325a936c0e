/**
 * llama.cpp, through node-llama-cpp, as a process of its own: told over the channel to its parent what to load and what to generate.
 * Arguments: GGUF file, threads.
 */
import { setImmediate } from 'node:timers/promises'
import { getLlama } from 'node-llama-cpp'

const [path, threads] = process.argv.slice(2)
const llama = await getLlama({
  gpu: false,
  build: 'never',
  skipDownload: true,
  maxThreads: Number(threads),
  logLevel: 'error',
})
const model = await llama.loadModel({ modelPath: path, gpuLayers: 0, useMmap: true })

let context
const free = []

/** Room for so many sequences of that many tokens each, evaluated together. */
const open = async ({ sequences, tokens, flash, cache }) => {
  await context?.dispose()
  free.length = 0
  context = await model.createContext({
    sequences,
    contextSize: tokens,
    batchSize: 1024,
    flashAttention: flash,
    experimentalKvCacheKeyType: cache,
    experimentalKvCacheValueType: cache,
    threads: { ideal: Number(threads), min: Number(threads) },
    failedCreationRemedy: false,
  })
  for (let i = 0; i < sequences; i++) free.push(context.getSequence())
}

/** Sequences under way, each with the tokens that it is to see next. */
const running = new Set()
let turning = false

/** Greedy, and past the end of a text: its ids, and the times since the call of the first and of the last. */
const generate = async ({ ids, tokens }) => {
  const sequence = free.pop()
  await sequence.clearHistory()
  const answer = { ids: [], firstMs: 0, lastMs: 0, afterFirst: tokens - 1 }
  await new Promise((resolve, reject) => {
    running.add({ sequence, next: ids, tokens, answer, begun: performance.now(), resolve, reject })
    if (!turning) void turn()
  })
  free.push(sequence)
  return answer
}

/**
 * All sequences go one token further in one batch, again and again. Left to themselves (sequence.evaluate for each), they fall out of
 * step, and of 8 only 6.8 share a batch.
 */
const turn = async () => {
  turning = true
  for (;;) {
    await setImmediate()
    if (running.size === 0) break
    await Promise.all([...running].map(advance))
  }
  turning = false
}

const greedy = { generateNext: { token: true, options: { temperature: 0 } } }

const advance = async (each) => {
  const { sequence, next, tokens, answer, begun, resolve, reject } = each
  try {
    const input = next.map((token, i) => (i === next.length - 1 ? [token, greedy] : token))
    const { token } = (await sequence.controlledEvaluate(input)).at(-1).next
    answer.lastMs = performance.now() - begun
    answer.firstMs ||= answer.lastMs
    answer.ids.push(token)
    each.next = [token]
    if (answer.ids.length < tokens) return
    running.delete(each)
    resolve()
  } catch (error) {
    running.delete(each)
    reject(error)
  }
}

process.on('message', ({ id, kind, ...what }) => {
  const done = kind === 'open' ? open(what) : generate(what)
  done.then(
    (result) => process.send({ id, result }),
    (error) => process.send({ id, error: String(error?.stack ?? error) }),
  )
})
process.on('disconnect', () => process.exit())
process.send({ ready: true })
