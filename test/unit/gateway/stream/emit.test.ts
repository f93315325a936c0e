import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { type ModelTokenizer, openTokenizer } from '../../../../services/gateway/accept/tokenizer.ts'
import { type Decoder, textStream } from '../../../../services/gateway/stream/emit.ts'
import { seeded } from '../../../support/random.ts'

let demo: ModelTokenizer
beforeAll(async () => {
  demo = (await openTokenizer(join(import.meta.dirname, '../../../../models/demo')))!
})

/** Pieces as SentencePiece has them: ▁ is a space, the text's first space goes, ids below 256 are bytes, 256 is special. */
const pieces = ['</s>', '▁', '▁a', 'b', '▁▁', '漢', '▁c', '<not special>']
const sentencePiece: Decoder = {
  decode: (ids, { skipSpecialTokens }) => {
    const bytes = ids.map((id) => {
      if (id < 256) return Buffer.of(id)
      return Buffer.from(id === 256 && skipSpecialTokens ? '' : pieces[id - 256].replaceAll('▁', ' '))
    })
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(bytes)).replace(/^ /, '')
  },
}

const run = (tokenizer: Decoder, ids: readonly number[], options: Parameters<typeof textStream>[1] = {}) => {
  const stream = textStream(tokenizer, options)
  const deltas = ids.map((id) => stream.push(id).text)
  return { deltas, text: deltas.join('') + stream.end() }
}
const skip = { skipSpecialTokens: true }

describe('textStream', () => {
  it('says what a full decode says, for any ids', () => {
    for (let seed = 0; seed < 300; seed++) {
      const below = seeded(seed)
      // Ids 2 to 257 are the single bytes: mostly broken characters. Others are whole pieces.
      const kinds = [() => 2 + below(256), () => below(4096), () => 130 + below(128), () => below(2)]
      const ids = Array.from({ length: below(60) }, () => kinds[seed % 2 ? below(4) : seed % 4 ? 0 : 2]())
      expect(run(demo, ids).text, `case ${seed}`).toBe(demo.decode(ids, skip))
    }
  })

  it('says what a full decode says, for any pieces of a tokenizer that strips the first space', () => {
    for (let seed = 0; seed < 2000; seed++) {
      const below = seeded(seed)
      const id = () => (below(5) ? 256 + below(pieces.length) : [0xe6, 0xbc, 0xa2, 0xff, 0x20, 0xf0][below(6)])
      const ids = Array.from({ length: below(30) }, id)
      expect(run(sentencePiece, ids).text, `case ${seed}`).toBe(sentencePiece.decode(ids, skip))
    }
  })

  it('gives whole characters only, however they are split over tokens', () => {
    const text = 'a🦙b漢字é👩‍👩‍👧!'
    const bytes = [...Buffer.from(text)].map((byte) => 2 + byte)
    const { deltas, text: said } = run(demo, bytes)
    expect(said).toBe(text)
    expect(deltas.join('')).toBe(text)
    for (const delta of deltas) expect(delta).not.toContain('\ufffd')
    expect(deltas.slice(0, 6)).toEqual(['a', '', '', '', '🦙', 'b'])
  })

  it('gives an unfinished character as U+FFFD at the end only', () => {
    const { deltas, text } = run(demo, [2 + 0xf0, 2 + 0x9f])
    expect(deltas).toEqual(['', ''])
    expect(text).toBe('\ufffd')
  })

  it("continues the prompt's text, half a character and a leading space included", () => {
    const [f, g, h, i] = [...Buffer.from('🦙')].map((byte) => 2 + byte)
    expect(run(demo, [h, i], { prompt: [f, g] }).text).toBe('🦙')
    expect(run(sentencePiece, [258], { prompt: [258] }).text).toBe(' a')
    expect(run(sentencePiece, [258], { prompt: [258, 256] }).text).toBe(' a')
    expect(run(sentencePiece, [258], { prompt: [256] }).text).toBe('a')
    for (let seed = 0; seed < 200; seed++) {
      const below = seeded(seed)
      const ids = Array.from({ length: 20 }, () => below(4096))
      const cut = below(20)
      const before = demo.decode(ids.slice(0, cut), skip).replace(/\ufffd$/, '')
      const said = run(demo, ids.slice(cut), { prompt: ids.slice(0, cut) }).text
      expect(before + said, `case ${seed}`).toBe(demo.decode(ids, skip))
    }
  })

  it('decodes as few ids for the thousandth token as for the tenth', () => {
    const inputs = [
      Array.from({ length: 1000 }, (_, n) => 300 + n),
      new Array(1000).fill(2 + 0xff),
      new Array(1000).fill(2 + 0xf0),
      new Array(1000).fill(0),
      [2 + 0xf0, ...new Array(1000).fill(0)],
    ]
    for (const ids of inputs) {
      let decoded = 0
      const counting: Decoder = {
        decode: (window, options) => {
          decoded += window.length
          return demo.decode(window, options)
        },
      }
      const stream = textStream(counting)
      const costs = ids.map((id) => {
        const before = decoded
        stream.push(id)
        return decoded - before
      })
      const sum = (from: number, to: number) => costs.slice(from, to).reduce((a, b) => a + b)
      expect(sum(900, 1000)).toBeLessThanOrEqual(sum(100, 200) + 200)
      expect(Math.max(...costs)).toBeLessThan(200)
    }
  })

  it('ends before a stop string that spans tokens, and says nothing after it', () => {
    const ids = demo.encode('one two ENDING three', { addSpecialTokens: false })
    const stream = textStream(demo, { stop: ['never', ' ENDING'] })
    const pushed = ids.map((id) => stream.push(id))
    expect(pushed.map(({ text }) => text).join('')).toBe('one two')
    expect(pushed.filter(({ stopped }) => stopped).length).toBeGreaterThan(0)
    expect(pushed.at(-1)).toEqual({ text: '', stopped: true })
    expect(stream.end()).toBe('')
  })

  it('does not look for stop strings in the first min_tokens tokens', () => {
    const ids = [...Buffer.from('a.b.c')].map((byte) => 2 + byte)
    expect(run(demo, ids, { stop: ['.'], minTokens: 1 }).text).toBe('a')
    expect(run(demo, ids, { stop: ['.'], minTokens: 2 }).text).toBe('a.b')
    expect(run(demo, ids, { stop: ['.'], minTokens: 9 }).text).toBe('a.b.c')
  })

  it('gives back at the end what only looked like a stop string', () => {
    const ids = demo.encode('one two END', { addSpecialTokens: false })
    const { deltas, text } = run(demo, ids, { stop: ['ENDING'] })
    expect(deltas.join('')).toBe('one two ')
    expect(text).toBe('one two END')
  })

  it('says the same when it is rebuilt from the ids at any place', () => {
    const ids = demo.encode('Stop words: 漢字 🦙 and a STOP here', { addSpecialTokens: false })
    const whole = run(demo, ids, { stop: ['STOP'] })
    for (let cut = 0; cut < ids.length; cut++) {
      const resumed = textStream(demo, { stop: ['STOP'] })
      for (const id of ids.slice(0, cut)) resumed.push(id)
      const rest = ids.slice(cut).map((id) => resumed.push(id).text)
      expect(rest).toEqual(whole.deltas.slice(cut))
    }
  })
})
