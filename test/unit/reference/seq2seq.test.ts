import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type Model, openModel } from '../../../shared/model/open.ts'
import { loadReference } from '../../reference/model.ts'
import { writeCheckpoint } from '../../support/checkpoint.ts'
import { type Seq2seqName, seq2seqConfigs } from '../../support/configs.ts'
import { describeGolden, golden } from '../../support/goldens.ts'

const encoderDecoders = ['marian', 'bart', 't5', 'switch_transformers', 'nllb_moe']

/** The model of a folder, closed when the test ends. */
const opened = async (dir: string): Promise<Model> => {
  const model = await openModel(dir)
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

describe.each(Object.keys(seq2seqConfigs) as Seq2seqName[])('a random %s', (name) => {
  const source = [9, 77, 31, 8, 120, 64, 2]
  const loaded = async () => {
    const dir = await mkdtemp(join(tmpdir(), 'seq2seq-'))
    onTestFinished(() => rm(dir, { recursive: true }))
    await writeCheckpoint(dir, seq2seqConfigs[name], { seed: 11 })
    return loadReference(await opened(dir))
  }

  it('gives the same bits in one step and token by token, and looks at no later token', async () => {
    const reference = await loaded()
    const ids = [reference.config.encoder!.start, 5, 5, 93, 40, 5]
    const together = reference.step(ids, reference.encode(source))
    const past = reference.encode(source)
    expect(ids.map((id) => reference.step([id], past)[0])).toEqual(together)
    const changed = reference.step([...ids.slice(0, -1), 6], reference.encode(source))
    expect(changed.slice(0, -1)).toEqual(together.slice(0, -1))
    expect(changed.at(-1)).not.toEqual(together.at(-1))
  })

  it('sees its whole source, in order', async () => {
    const reference = await loaded()
    const first = (ids: number[]) => reference.step([reference.config.encoder!.start], reference.encode(ids))[0]
    expect(first([...source.slice(0, -1), 3])).not.toEqual(first(source))
    expect(first(source.toReversed())).not.toEqual(first(source))
  })
})
