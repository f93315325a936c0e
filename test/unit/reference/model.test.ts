import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { Source } from '../../../shared/model/config.ts'
import { type Model, openModel } from '../../../shared/model/open.ts'
import { loadReference, type Reference } from '../../reference/model.ts'
import { describeGolden, type Golden, golden } from '../../support/goldens.ts'

const decoders = [
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

/** The model of a folder, closed when the test ends. */
const opened = async (dir: string): Promise<Model> => {
  const model = await openModel(dir)
  onTestFinished(model.close)
  return model
}

const expectCases = (reference: Reference, cases: Golden['cases'], tolerance: number) => {
  for (const { input_ids, greedy, last_logits } of cases) {
    const last = reference.logits(input_ids).at(-1)!
    expect(last).toHaveLength(last_logits.length)
    expect(Math.max(...last_logits.map((logit, i) => Math.abs(logit - last[i])))).toBeLessThan(tolerance)
    expect(reference.greedy(input_ids, greedy.length)).toEqual(greedy)
  }
}

/** The prompt in steps of the given sizes, then the rest one token at a time. */
const inChunks = (reference: Reference, ids: number[], sizes: number[], promptLength: number) => {
  const past = reference.begin(promptLength)
  const logits: Float32Array[] = []
  while (logits.length < ids.length) {
    const size = sizes.shift() ?? 1
    logits.push(...reference.step(ids.slice(logits.length, logits.length + size), past))
  }
  return logits
}

for (const name of decoders)
  describeGolden(name, () => {
    it('gives the tokens and logits of transformers', async () => {
      expectCases(await loadReference(await opened(golden(name).dir)), golden(name).cases, 2e-4)
    })
  })

for (const name of ['deepseek', 'mixtral', 'deepseek_v3_yarn'])
  describeGolden(name, () => {
    it('gives the same bits in one step, in chunks and token by token', async () => {
      const reference = await loadReference(await opened(golden(name).dir))
      const ids = golden(name).cases.at(-1)!.input_ids.slice(0, 40)
      const whole = reference.logits(ids)
      expect(inChunks(reference, ids, [7, 1, 16], ids.length)).toEqual(whole)
      expect(inChunks(reference, ids, [], ids.length)).toEqual(whole)
    })

    it('does not let a later token change an earlier one', async () => {
      const reference = await loadReference(await opened(golden(name).dir))
      const ids = golden(name).cases.at(-1)!.input_ids.slice(0, 12)
      const changed = [...ids.slice(0, -1), (ids.at(-1)! + 1) % 256]
      const [a, b] = [reference.logits(ids), reference.logits(changed)]
      expect(b.slice(0, -1)).toEqual(a.slice(0, -1))
      expect(b.at(-1)).not.toEqual(a.at(-1))
    })
  })

describe('greedy choice', () => {
  it('takes the lowest of equal ids', async () => {
    const model = await opened(golden('mixtral').dir)
    const head = model.weights.model('head').name
    const read = async (source: Source) => {
      const tensor = await model.checkpoint.read(source)
      return source.name === head ? tensor.map(() => 0) : tensor
    }
    const indifferent = await loadReference({ ...model, checkpoint: { read } })
    expect(indifferent.greedy([5], 3)).toEqual([0, 0, 0])
  })
})

describe('dynamic rope scaling', () => {
  it('does not depend on how a prompt is cut, and agrees with plain rope up to the trained length', async () => {
    const model = await opened(golden('mixtral').dir)
    const scaling = { kind: 'dynamic', factor: 4, maxPositions: 16 } as const
    const config = { ...model.config, positions: { ...model.config.positions, scaling } }
    const [plain, dynamic] = [await loadReference(model), await loadReference({ ...model, config })]
    const ids = golden('mixtral').cases.at(-1)!.input_ids.slice(0, 30)
    expect(inChunks(dynamic, ids, [5, 20], 25)).toEqual(dynamic.logits(ids, 25))
    expect(dynamic.logits(ids.slice(0, 16))).toEqual(plain.logits(ids.slice(0, 16)))
    expect(dynamic.logits(ids, 10).slice(0, 16)).toEqual(plain.logits(ids, 10).slice(0, 16))
    expect(dynamic.logits(ids, 30)[5]).not.toEqual(plain.logits(ids, 30)[5])
  })
})

describe('demo', () => {
  it('speaks as the run that trained it did', async () => {
    const dir = join(import.meta.dirname, '..', '..', '..', 'models', 'demo')
    const { cases } = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8'))
    expectCases(await loadReference(await opened(dir)), [cases[0], cases[5], cases[12]], 2e-4)
  })
})
