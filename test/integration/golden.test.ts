import { afterAll, beforeAll, expect, it } from 'vitest'
import { describeGolden, golden } from '../support/goldens.ts'
import { type Local, openLocal, requestOf } from '../support/local.ts'

const families = [
  'deepseek',
  'deepseek_v2',
  'deepseek_v2_yarn',
  'deepseek_v3',
  'deepseek_v3_yarn',
  'mixtral',
  'qwen2_moe',
  'qwen3_moe',
  'olmoe',
]

for (const name of families) {
  describeGolden(name, () => {
    let local: Local
    beforeAll(async () => {
      local = await openLocal(golden(name).dir)
    })
    afterAll(() => local?.close())

    it('generates the ids that transformers generates', async () => {
      for (const { input_ids, greedy } of golden(name).cases) {
        const { ids } = await local.generate(requestOf(input_ids, greedy.length))
        expect(ids).toEqual(greedy)
      }
    })

    it('gives the logits of transformers at the last prompt position', async () => {
      for (const { input_ids, last_logits } of golden(name).cases) {
        const V = last_logits.length
        const { events } = await local.generate(requestOf(input_ids, 1, { logprobs: V }))
        const event = events.find((e) => e.kind === 'token')
        const logprobs = new Float64Array(V)
        for (const { id, logprob } of event?.kind === 'token' ? (event.logprob?.top ?? []) : []) logprobs[id] = logprob
        const largest = Math.max(...last_logits)
        const normaliser = largest + Math.log(last_logits.reduce((sum, x) => sum + Math.exp(x - largest), 0))
        const differences = last_logits.map((x, id) => Math.abs(logprobs[id] + normaliser - x))
        expect(Math.max(...differences)).toBeLessThan(2e-4)
      }
    })
  })
}
