import assert from 'node:assert/strict'
import type { Encoder } from '../../../shared/model/config.ts'
import type { Beam, GenerationRequest, Sequence, TokenEvent, TokenLogprob } from '../sequence.ts'
import { advanceSearch, bestOutput, type Finished, type Hypothesis, type Search, startSearch } from './beam.ts'
import type { KvCache } from './cache.ts'
import { constrain } from './constrain.ts'
import { positionDigest } from './digest.ts'
import { tokenLogprob } from './logprob.ts'

/** What a token's client may ask for besides the token. */
type Note = Pick<TokenEvent, 'logprob' | 'digest'>

/** A search under way, and by step what is to be told of each token it chose, should that be in the answer. */
export type Searching = { search: Search; notes: Map<string, Note>[] }

/**
 * The beams and the search of a sequence that has not begun. A search begins with the prompt even where an earlier attempt has told of
 * tokens: which beams led to them nobody knows any more, and the same bits come again.
 */
export const openBeams = ({ id, prompt, resume, search }: GenerationRequest): Pick<Sequence, 'beams' | 'search'> =>
  search
    ? { beams: [{ id: beamId(id, 0), ids: [...prompt], cached: 0 }], search: { search: startSearch(), notes: [] } }
    : { beams: [{ id, ids: [...prompt, ...resume], cached: 0 }], search: null }

/** The same of a sequence whose rows are gone: what was drawn is kept, a search begins again. */
export const restarted = ({ request, beams }: Sequence): Pick<Sequence, 'beams' | 'search'> =>
  request.search ? openBeams(request) : { beams: beams.map((beam) => ({ ...beam, cached: 0 })), search: null }

const beamId = (request: string, slot: number): string => `beam ${slot} of ${request}`

/**
 * Takes logits [V] of every beam into the search. Its new beams are then in the sequence and in the cache; where it is done, the
 * answer is returned: the tokens that no earlier attempt has told of. @throws as advanceSearch does.
 */
export const followSearch = (
  sequence: Sequence,
  searching: Searching,
  rows: readonly Float32Array[],
  { cache, encoder }: { cache: KvCache; encoder: Encoder | null },
): TokenEvent[] => {
  const { request } = sequence
  assert(request.search, 'the request asks for a search')
  const { stopIds, maxTokens } = request
  const allowed = (output: readonly number[]) => constrain(encoder, request, output)
  const next = advanceSearch(searching.search, rows, allowed, { ...request.search, stopIds, maxTokens })
  searching.search = next
  searching.notes.push(notesOf(request, rows, next, searching.notes.length))
  if (next.done) return answer(request, bestOutput(next), searching.notes)
  sequence.beams = fork(cache, sequence, next.live)
  return []
}

const key = ({ output, places }: Hypothesis, step: number): string => `${places[step]} ${output[step]}`

const notesOf = (request: GenerationRequest, rows: readonly Float32Array[], search: Search, step: number) => {
  const notes = new Map<string, Note>()
  if (request.logprobs === null && !request.digest) return notes
  const digests = request.digest ? rows.map(positionDigest) : null
  const chosen = [...search.live, ...search.finished].filter(({ output }) => output.length === step + 1)
  for (const one of chosen) {
    const place = one.places[step]
    const { logprobs } = request
    const logprob: TokenLogprob | null =
      logprobs === null ? null : tokenLogprob(rows[place], one.output[step], logprobs)
    notes.set(key(one, step), { logprob, digest: digests?.[place] ?? null })
  }
  return notes
}

const answer = (request: GenerationRequest, best: Finished, notes: readonly Map<string, Note>[]): TokenEvent[] =>
  best.output
    .map((token, index): TokenEvent => {
      const note = notes[index].get(key(best, index)) ?? { logprob: null, digest: null }
      return { id: request.id, index, token, ...note, finish: index === best.output.length - 1 ? best.finish : null }
    })
    .slice(request.resume.length)

/** The beams that go on, in order. The first child of a beam keeps its rows, others copy them; beams without a child end. */
const fork = (cache: KvCache, { request, beams }: Sequence, live: readonly Hypothesis[]): Beam[] => {
  const parents = live.map(({ places }) => beams[places[places.length - 1]])
  for (const beam of beams) if (!parents.includes(beam)) cache.drop(beam.id)
  const taken = new Set(parents.map(({ id }) => id))
  const slots = live.map((_, slot) => beamId(request.id, slot)).filter((id) => !taken.has(id))
  const length = beams[0].ids.length
  return live.map(({ output }, place) => {
    const parent = parents[place]
    const token = output[output.length - 1]
    if (parents.indexOf(parent) === place) {
      parent.ids.push(token)
      return parent
    }
    const child = { id: slots.pop() ?? '', ids: [...parent.ids.slice(0, length), token], cached: parent.cached }
    assert(cache.fork(child.id, child.ids, parent.id), 'the schedule counted the beams and their blocks')
    return child
  })
}
