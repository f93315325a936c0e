import { stopScan } from './finish.ts'

/** What a text stream needs of a tokenizer. Ids must decode to a prefix of what they decode to with more ids behind them. */
export type Decoder = {
  decode(ids: readonly number[], options: { skipSpecialTokens: boolean }): string
}

export type TextStream = {
  /** The text this token makes certain; `stopped` when a stop string is complete, and the text then ends before it. */
  push(id: number): { text: string; stopped: boolean }
  /** What is still held back, once the last token has come. */
  end(): string
}

/** Prompt ids decoded along, because the first output piece may depend on what is before it (a leading space, half a character). */
const promptContext = 6

/** More ids than this without a clean end of text are only met in garbage; the window is then cut inside it. */
const pendingMax = 8

const replacement = '\ufffd'

/**
 * Ids to text as they come: what is returned, joined, is the text of prompt and output less the prompt's (as far as its last ids reach). Decodes a short window
 * per token, so a token costs the same at any length of output (the idea of vLLM's detokenize_incrementally). Special tokens are
 * no text. All state follows from the ids pushed: a resumed stream pushes the old ones again and says the same.
 */
export const textStream = (
  tokenizer: Decoder,
  options: { prompt?: readonly number[]; stop?: readonly string[]; minTokens?: number } = {},
): TextStream => {
  const { prompt = [], stop = [], minTokens = 0 } = options
  const characters = characterStream(tokenizer, prompt)
  const scan = stopScan(stop)
  let pushed = 0
  let done = false
  return {
    push: (id) => {
      if (done) return { text: '', stopped: true }
      const text = characters.push(id)
      pushed++
      // The text of the first minTokens tokens is not searched.
      const result = pushed <= minTokens ? { text, stopped: false } : scan.push(text)
      done = result.stopped
      return result
    },
    end: () => {
      if (done) return ''
      done = true
      return scan.push(characters.end()).text + scan.end()
    },
  }
}

/** Incremental decoding without stop strings: whole characters as they become certain. */
const characterStream = (tokenizer: Decoder, prompt: readonly number[]) => {
  const decode = (ids: readonly number[]): string => tokenizer.decode(ids, { skipSpecialTokens: true })
  // Twice: a lone word-start mark is stripped like a leading space, and is text all the same.
  const isText = (id: number): boolean => decode([id, id]) !== ''
  // An unfinished character decodes to one U+FFFD at the end (WHATWG Encoding, maximal subpart); all before it is certain.
  const certain = (text: string): string => (text.endsWith(replacement) ? text.slice(0, -1) : text)

  /** Context [0, pending) followed by ids whose text is not certain yet. */
  let window = prompt.slice(-promptContext).filter(isText)
  let pending = window.length
  /** Characters of the window's text that are out. */
  let given = certain(decode(window)).length

  /** The pending ids, all of them out, become the context: the next piece is never first, so no rule about first pieces meets it. */
  const advance = (): void => {
    window = window.slice(pending)
    pending = window.length
    given = decode(window).length
  }

  /** Drops ids at a place where what is before and what is behind decode apart as they do together. */
  const cut = (text: string): void => {
    for (let at = window.length - 1; at > 0; at--) {
      const behind = decode(window.slice(at))
      if (decode(window.slice(0, at)) + behind !== text) continue
      window = window.slice(at)
      pending = 0
      given -= text.length - behind.length
      return
    }
  }

  return {
    push: (id: number): string => {
      window.push(id)
      const text = decode(window)
      const whole = certain(text)
      const delta = whole.slice(given)
      given += delta.length
      if (delta === '' && !isText(id)) window.pop()
      else if (delta !== '' && whole.length === text.length) advance()
      else if (window.length - pending > pendingMax) cut(text)
      return delta
    },
    end: (): string => decode(window).slice(given),
  }
}
