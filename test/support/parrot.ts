import type { Served, Tokens } from '../../services/gateway/accept/served.ts'
import { samplingDefaults } from '../../services/gateway/accept/served.ts'

/** One token per UTF-8 byte; 256 begins a prompt, 257 ends a sequence. */
export const bytes: Tokens = {
  encode: (text, { addSpecialTokens }) => [...(addSpecialTokens ? [256] : []), ...Buffer.from(text)],
  decode(ids, { skipSpecialTokens }) {
    const text = Buffer.from(ids.filter((id) => id < 256)).toString()
    return skipSpecialTokens ? text : `${ids[0] === 256 ? '<s>' : ''}${text}${ids.at(-1) === 257 ? '</s>' : ''}`
  },
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
