import type { FinishReason, GenerationRequest } from '../sequence.ts'

/**
 * Why a sequence ends with the last token of `output`, or null when it goes on: 'stop' for a stop id past min_tokens, else
 * 'length' at max_tokens or at a full context. An id `forced` at max_tokens is one that the length brought about. Stop strings are
 * the text's business: see stopScan.
 */
export const finishReason = (
  request: Pick<GenerationRequest, 'prompt' | 'stopIds' | 'minTokens' | 'maxTokens'>,
  output: readonly number[],
  contextLength: number,
  forced: number | null = null,
): FinishReason | null => {
  const last = output.at(-1)
  if (output.length >= request.maxTokens && forced !== null) return 'length'
  if (last !== undefined && output.length > request.minTokens && request.stopIds.includes(last)) return 'stop'
  if (output.length >= request.maxTokens || request.prompt.length + output.length >= contextLength) return 'length'
  return null
}

export type StopScan = {
  /** Text that no stop string can claim any more; `stopped` once one is complete, and the text then ends before it. */
  push(text: string): { text: string; stopped: boolean }
  /** What was held back, when no more text comes. */
  end(): string
}

/** The longest end of `text` that a stop string begins with, in characters. */
const heldBack = (text: string, stops: readonly string[]): number => {
  let most = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > most; length--) {
      if (text.endsWith(stop.slice(0, length))) most = length
    }
  }
  return most
}

/** Where the stop string begins that is complete first, the longest of those; null without one. */
const firstStop = (text: string, stops: readonly string[]): number | null => {
  let first: { begin: number; end: number } | null = null
  for (const stop of stops) {
    const begin = text.indexOf(stop)
    if (begin < 0) continue
    const end = begin + stop.length
    if (!first || end < first.end || (end === first.end && begin < first.begin)) first = { begin, end }
  }
  return first === null ? null : first.begin
}

/**
 * Looks for stop strings in text that comes in pieces. How the text is cut into pieces does not matter: the stop string that is
 * complete first, read character by character, ends it. Holds less text than the longest stop string.
 */
export const stopScan = (stopStrings: readonly string[]): StopScan => {
  const stops = stopStrings.filter((stop) => stop.length > 0)
  let held = ''
  let stopped = false
  return {
    push: (text) => {
      if (stopped) return { text: '', stopped }
      held += text
      const begin = firstStop(held, stops)
      stopped = begin !== null
      const certain = held.slice(0, begin ?? held.length - heldBack(held, stops))
      held = stopped ? '' : held.slice(certain.length)
      return { text: certain, stopped }
    },
    end: () => {
      const rest = held
      held = ''
      return rest
    },
  }
}
