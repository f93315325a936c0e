import { describe, expect, test } from 'vitest'
import { argmax } from '../../../../services/gateway/forward/logprob.ts'
import { Code } from '../../../../shared/errors.ts'
import { seeded } from '../../../support/random.ts'

const dumb = (logits: Float32Array): number => logits.indexOf(logits.reduce((a, b) => Math.max(a, b)))

describe('the largest logit', () => {
  test('is the first of equal ones, in rows of every length', () => {
    const below = seeded(17)
    for (let turn = 0; turn < 2000; turn++) {
      const logits = Float32Array.from({ length: 1 + below(19) }, () => (below(5) === 0 ? -Infinity : below(9) - 4))
      expect(argmax(logits)).toBe(dumb(logits))
    }
  })

  test('is refused where any logit is NaN or +∞', () => {
    for (const wrong of [Number.NaN, Infinity]) {
      for (let length = 1; length < 10; length++) {
        for (let at = 0; at < length; at++) {
          const logits = new Float32Array(length).fill(1)
          logits[at] = wrong
          expect(() => argmax(logits)).toThrow(expect.objectContaining({ code: Code.INTERNAL }))
        }
      }
    }
  })
})
