import { describe, expect, it } from 'vitest'
import { finishReason, stopScan } from '../../../../services/gateway/stream/finish.ts'
import { seeded } from '../../../support/random.ts'

const request = { prompt: [1, 2], stopIds: [7, 8], minTokens: 0, maxTokens: 4 }

describe('finishReason', () => {
  it('is null while there is room and no stop id', () => {
    expect(finishReason(request, [7, 5], 100)).toBeNull()
    expect(finishReason(request, [], 100)).toBeNull()
  })

  it('is stop at a stop id, the last token allowed included', () => {
    expect(finishReason(request, [5, 8], 100)).toBe('stop')
    expect(finishReason(request, [5, 5, 5, 7], 100)).toBe('stop')
  })

  it('is length where the length forced the last token, and stop where something else forced an earlier one', () => {
    expect(finishReason(request, [5, 5, 5, 7], 100, 7)).toBe('length')
    expect(finishReason(request, [5, 5, 5, 9], 100, 9)).toBe('length')
    expect(finishReason(request, [7], 100, 7)).toBe('stop')
    expect(finishReason(request, [5], 100, 5)).toBeNull()
  })

  it('does not stop before min_tokens', () => {
    expect(finishReason({ ...request, minTokens: 2 }, [5, 8], 100)).toBeNull()
    expect(finishReason({ ...request, minTokens: 2 }, [5, 5, 8], 100)).toBe('stop')
  })

  it('is length at max_tokens and at a full context, not one token sooner', () => {
    expect(finishReason(request, [5, 5, 5], 100)).toBeNull()
    expect(finishReason(request, [5, 5, 5, 5], 100)).toBe('length')
    expect(finishReason(request, [5, 5], 5)).toBeNull()
    expect(finishReason(request, [5, 5, 5], 5)).toBe('length')
  })
})

/** Reads character by character and looks at everything so far. */
const dumb = (text: string, stops: readonly string[]): { text: string; stopped: boolean } => {
  for (let end = 1; end <= text.length; end++) {
    const matched = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0]
    if (matched) return { text: text.slice(0, end - matched.length), stopped: true }
  }
  return { text, stopped: false }
}

describe('stopScan', () => {
  it('finds the stop string that is complete first, however the text is cut', () => {
    let found = 0
    for (let seed = 0; seed < 3000; seed++) {
      const below = seeded(seed)
      const word = (length: number) =>
        Array.from({ length }, () => 'ab🦙'.slice(below(3), 3).slice(0, 1) || 'a').join('')
      const stops = Array.from({ length: 1 + below(3) }, () => word(1 + below(5)))
      const text = word(below(20))
      const scan = stopScan(stops)
      let said = ''
      let stopped = false
      for (let at = 0; at < text.length && !stopped; ) {
        const length = 1 + below(6)
        const pushed = scan.push(text.slice(at, at + length))
        said += pushed.text
        stopped = pushed.stopped
        at += length
      }
      expect({ text: said + scan.end(), stopped }, `case ${seed}`).toEqual(dumb(text, stops))
      if (stopped) found++
    }
    expect(found).toBeGreaterThan(500)
    expect(found).toBeLessThan(2900)
  })

  it('holds back no more than what may become a stop string', () => {
    const scan = stopScan(['</s>', '\n\n'])
    expect(['a<', '/', 'b</', 's', '\n', 'c\n'].map((text) => scan.push(text).text)).toEqual([
      'a',
      '',
      '</b',
      '',
      '</s',
      '\nc',
    ])
    expect(scan.end()).toBe('\n')
    expect(scan.end()).toBe('')
  })

  it('passes everything on where there are no stop strings, or only empty ones', () => {
    expect(stopScan([]).push('text')).toEqual({ text: 'text', stopped: false })
    expect(stopScan(['']).push('text')).toEqual({ text: 'text', stopped: false })
  })
})
