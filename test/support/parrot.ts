import { createHash } from 'node:crypto'
import type { Served, Tokens } from '../../services/gateway/accept/served.ts'
import { samplingDefaults } from '../../services/gateway/accept/served.ts'
import type { Engine, EngineEvent, FinishReason, GenerationRequest } from '../../services/gateway/sequence.ts'

const bytesOf = (id: number): Buffer => (id > 255 ? Buffer.from(id === 256 ? '<s>' : '</s>') : Buffer.of(id))

/** One token per UTF-8 byte; 256 begins a prompt, 257 ends a sequence. */
export const bytes: Tokens = {
  encode: (text, { addSpecialTokens }) => [...(addSpecialTokens ? [256] : []), ...Buffer.from(text)],
  decode: (ids, { skipSpecialTokens }) =>
    Buffer.concat(ids.map((id) => (skipSpecialTokens && id > 255 ? Buffer.alloc(0) : bytesOf(id)))).toString(),
  token: (id) => ({ text: bytesOf(id).toString(), bytes: bytesOf(id) }),
}

/** A model of bytes with a context of 64 tokens and no chat template. */
export const parrot: Served = {
  name: 'parrot',
  hash: 'c0ffee',
  precision: 'fp32',
  numericClass: 'bytes',
  created: 1_700_000_000,
  config: { family: 'parrot', vocabulary: 258, contextLength: 64, eos: [257] },
  defaults: samplingDefaults({ do_sample: true, temperature: 0.7, top_k: 40 }),
  tokenizer: bytes,
  chat: null,
}

/** Another thread's turn, as the engine's events come from one. */
const turn = () => new Promise((resolve) => setImmediate(resolve))

/** An engine that says the prompt over and over, one token a turn, and notes what was cancelled. */
export const parrotEngine = () => {
  const cancelled: string[] = []
  const running = new Set<string>()
  const speak = async (request: GenerationRequest, onEvent: (event: EngineEvent) => void): Promise<void> => {
    const { id, prompt, maxTokens, stopIds } = request
    const words = prompt.filter((token) => token !== 256)
    const logprob = (token: number) => ({ id: token, logprob: -0.5, top: [{ id: token, logprob: -0.5 }] })
    onEvent({ kind: 'started', id, cachedTokens: 1 })
    if (request.promptLogprobs)
      onEvent({ kind: 'prompt', id, logprobs: prompt.map((token, at) => (at === 0 ? null : logprob(token))) })
    for (let index = 0; running.has(id); index++) {
      await turn()
      if (!running.has(id)) return
      const token = words[index % words.length]
      const finish: FinishReason | null = stopIds.includes(token) ? 'stop' : index + 1 === maxTokens ? 'length' : null
      if (finish) running.delete(id)
      const digest = request.digest ? createHash('sha256').update(`${index}`).digest() : null
      const event = { id, index, token, logprob: request.logprobs === null ? null : logprob(token), digest, finish }
      onEvent({ kind: 'token', ...event })
    }
  }
  const engine: Engine = {
    submit(request, onEvent) {
      running.add(request.id)
      void speak(request, onEvent)
    },
    cancel(id) {
      running.delete(id)
      cancelled.push(id)
    },
  }
  return { engine, cancelled, running }
}
