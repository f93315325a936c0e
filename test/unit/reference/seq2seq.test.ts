import { expect, it, onTestFinished } from 'vitest'
import { type Model, openFolder } from '../../../shared/model/open.ts'
import { loadReference } from '../../reference/model.ts'
import { describeGolden, golden } from '../../support/goldens.ts'

const encoderDecoders = ['marian', 'bart', 't5', 'switch_transformers', 'nllb_moe']

/** The model of a folder, closed when the test ends. */
const opened = async (dir: string): Promise<Model> => {
  const model = await openFolder(dir)
  onTestFinished(model.close)
  return model
}

for (const name of encoderDecoders)
  describeGolden(name, () => {
    it('gives the tokens and logits of transformers', async () => {
      const reference = await loadReference(await opened(golden(name).dir))
      for (const { input_ids, greedy, first_logits } of golden(name).cases) {
        const [first] = reference.step([reference.config.encoder!.start], reference.encode(input_ids))
        expect(first).toHaveLength(first_logits.length)
        expect(Math.max(...first_logits.map((logit, i) => Math.abs(logit - first[i])))).toBeLessThan(2e-4)
        expect(reference.greedy(input_ids, greedy.length)).toEqual(greedy)
      }
    })
  })
