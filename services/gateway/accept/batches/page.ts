import { z } from 'zod'
import { Code, MeshError } from '../../../../shared/errors.ts'

const limitDefault = 20
const limitMax = 100

/** The query of a list: `after` is the id of the last one seen. */
export const pageQuery = z.object({
  after: z.string().nullish(),
  limit: z.coerce.number().int().min(1).max(limitMax).nullish(),
})
export type PageQuery = z.infer<typeof pageQuery>

/**
 * A part of a list, newest first as it comes, in OpenAI's form.
 * @throws MeshError NOT_FOUND where `after` is in no list.
 */
export const pageOf = <T extends { id: string }>(all: readonly T[], { after, limit }: PageQuery) => {
  const found = after ? all.findIndex(({ id }) => id === after) : -1
  if (after && found < 0) throw new MeshError(Code.NOT_FOUND, `There is no ${after} here.`, { param: 'after' })
  const data = all.slice(found + 1, found + 1 + (limit ?? limitDefault))
  return {
    object: 'list' as const,
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: found + 1 + data.length < all.length,
  }
}
