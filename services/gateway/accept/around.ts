import { z } from 'zod'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { TokenizerJson } from './exact.ts'

/** Ids a tokenizer puts before and behind a prompt. */
export type Around = { before: readonly number[]; behind: readonly number[] }

const marked = z.tuple([z.string(), z.int().min(0)])
const bert = z.looseObject({ cls: marked, sep: marked })
const template = z.looseObject({
  single: z.array(z.looseObject({ SpecialToken: z.looseObject({ id: z.string() }).optional() })),
  special_tokens: z.record(z.string(), z.looseObject({ ids: z.array(z.int().min(0)) })).default({}),
})

const templateAround = (processor: object): Around => {
  const { single, special_tokens } = template.parse(processor)
  const text = single.findIndex((item) => !item.SpecialToken)
  if (text < 0 || text !== single.findLastIndex((item) => !item.SpecialToken)) {
    const message = 'tokenizer.json: post_processor: its template must hold the prompt once.'
    throw new MeshError(Code.FAILED_PRECONDITION, message)
  }
  const ids = (items: typeof single) => items.flatMap((item) => special_tokens[item.SpecialToken?.id ?? '']?.ids ?? [])
  return { before: ids(single.slice(0, text)), behind: ids(single.slice(text + 1)) }
}

/** What a post_processor of tokenizer.json puts around a single sequence. */
export const aroundPrompt = (processor: TokenizerJson['post_processor']): Around => {
  const none = { before: [], behind: [] }
  switch (processor?.type) {
    case undefined:
    case 'ByteLevel':
      return none
    case 'TemplateProcessing':
      return templateAround(processor)
    case 'BertProcessing':
    case 'RobertaProcessing': {
      const { cls, sep } = bert.parse(processor)
      return { before: [cls[1]], behind: [sep[1]] }
    }
    case 'Sequence':
      return z
        .array(z.looseObject({ type: z.string() }))
        .parse(processor.processors)
        .map(aroundPrompt)
        .reduce(
          (all: Around, one) => ({ before: [...one.before, ...all.before], behind: [...all.behind, ...one.behind] }),
          none,
        )
    default:
      throw new MeshError(
        Code.FAILED_PRECONDITION,
        `tokenizer.json asks for the ${processor?.type} post-processor, which expertmesh does not know: take tokenizer.json out of the model's folder and send token ids.`,
      )
  }
}

/**
 * The same after tokenizer_config.json's add_bos_token and add_eos_token, which have the last word where they are given (as in
 * transformers' LlamaTokenizerFast.update_post_processor: DeepSeek's post-processors say nothing of the bos they are to add).
 */
export const withFlags = (
  around: Around,
  {
    bos,
    eos,
    addBos,
    addEos,
  }: { bos: number | null; eos: number | null; addBos: boolean | null; addEos: boolean | null },
): Around => {
  const { before, behind } = around
  const set = (
    ids: readonly number[],
    id: number | null,
    add: boolean | null,
    put: (id: number) => readonly number[],
  ) => {
    if (id === null || add === null || add === ids.includes(id)) return ids
    return add ? put(id) : ids.filter((other) => other !== id)
  }
  return {
    before: set(before, bos, addBos, (id) => [id, ...before]),
    behind: set(behind, eos, addEos, (id) => [...behind, id]),
  }
}
