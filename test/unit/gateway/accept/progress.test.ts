import { describe, expect, it } from 'vitest'
import { openProgress } from '../../../../services/gateway/accept/progress.ts'
import { Code } from '../../../../shared/errors.ts'

describe('ids of events', () => {
  it('are the index of the token where there is one choice', () => {
    const progress = openProgress(1, null)
    expect(progress.id()).toBe('')
    progress.prompt(0)
    expect(progress.id()).toBe('p')
    progress.token(0, 0)
    progress.token(0, 1)
    expect(progress.id()).toBe('1')
  })

  it('tell of every choice where there are several', () => {
    const progress = openProgress(3, null)
    progress.token(1, 0)
    progress.prompt(2)
    progress.token(0, 0)
    progress.token(1, 1)
    expect(progress.id()).toBe('0,1,p')
  })

  it('tell what a reader had who comes back', () => {
    const progress = openProgress(3, '4,,p')
    expect([0, 1, 2].map((choice) => progress.hadPrompt(choice))).toEqual([true, false, true])
    expect([
      progress.hadToken(0, 4),
      progress.hadToken(0, 5),
      progress.hadToken(1, 0),
      progress.hadToken(2, 0),
    ]).toEqual([true, false, false, false])
    progress.token(1, 0)
    expect(progress.id()).toBe('4,0,p')
  })

  it.each(['4,5', '-1', 'x', '1.5', '1e3', '99999999999999999'])('refuse %s for one choice', (text) => {
    expect(() => openProgress(1, text)).toThrow(expect.objectContaining({ code: Code.INVALID_ARGUMENT }))
  })
})
