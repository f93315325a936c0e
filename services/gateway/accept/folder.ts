import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { Code, MeshError } from '../../../shared/errors.ts'

/** A text file of a model's folder; null where there is none. */
export const readOptional = async (dir: string, name: string): Promise<string | null> =>
  readFile(join(dir, name), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })

/** The content of a file as JSON of a shape. Throws FAILED_PRECONDITION where it is not. */
export const parseFile = <T>(name: string, text: string, schema: z.ZodType<T>): T => {
  try {
    return schema.parse(JSON.parse(text))
  } catch (error) {
    const issue = error instanceof z.ZodError ? error.issues[0] : null
    const reason = issue ? `${issue.path.join('.')}: ${issue.message}` : (error as Error).message
    throw new MeshError(Code.FAILED_PRECONDITION, `${name} cannot be read: ${reason}.`, { cause: error })
  }
}

/** A named token of tokenizer_config.json, as its text: there it is a string or an object with the string as content. */
export const tokenText = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)])
  .nullish()
  .transform((text) => text ?? null)
