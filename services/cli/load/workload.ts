import { readFileSync } from 'node:fs'
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import { LENGTH_MAX, type Lengths } from './lengths.ts'
import { openRandom, type Random } from './random.ts'

const FILE_MAX_BYTES = 256 * 2 ** 20
const LINES_MAX = 1_000_000
/** A trace spans at most a day. */
const AT_MAX_MS = 86_400_000

export type Endpoint = 'completions' | 'chat'

/** The fields of a request's body that differ from request to request. */
export type Fields = Readonly<Record<string, unknown>>

/** What is asked: `distinct` different requests, which then repeat. */
export type Workload = {
  distinct: number
  /** The same fields for the same index, whatever was asked before. */
  at(index: number): Fields
  /** Intended starts in ms after the begin, ascending; null unless it is a trace. */
  startsMs: readonly number[] | null
}

/** Random prompts. */
export type Draw = {
  seed: number
  input: Lengths
  output: Lengths
  /** Random ids are below it. */
  vocabulary: number
  /** Prompts of words instead of ids, for servers and endpoints that take text alone; a length then counts words. */
  words: boolean
}

const WORDS =
  'the a of and to in that it is was he for on are with as his they be at one have this from or had by'.split(' ')

const promptOf = ({ vocabulary, words }: Draw, length: number, random: Random): string | number[] => {
  const below = (limit: number): number => Math.floor(random() * limit)
  if (words) return Array.from({ length }, () => WORDS[below(WORDS.length)]).join(' ')
  return Array.from({ length }, () => below(vocabulary))
}

/** Prompts of random lengths; each is drawn anew from the seed and its index, so none is kept. */
export const randomWorkload = (draw: Draw, distinct: number): Workload => ({
  distinct,
  startsMs: null,
  at(index) {
    const random = openRandom(draw.seed, index % distinct)
    const [input, output] = [draw.input(random), draw.output(random)]
    return { prompt: promptOf(draw, input, random), max_tokens: output }
  },
})

type Line = Record<string, unknown>

/**
 * JSON objects, one a line; empty lines are skipped.
 * @throws MeshError INVALID_ARGUMENT with the number of the line at fault.
 */
export const parseLines = (text: string, file: string): Line[] => {
  const objects: Line[] = []
  for (const [at, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    if (objects.length === LINES_MAX) throw invalid(`${file}: more than ${LINES_MAX} lines`)
    try {
      const parsed: unknown = JSON.parse(line)
      if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) throw new TypeError('no object')
      objects.push(checkLine(parsed as Line))
    } catch (thrown) {
      throw invalid(`${file} line ${at + 1}: ${(thrown as Error).message}`)
    }
  }
  if (objects.length === 0) throw invalid(`${file} has no line`)
  return objects
}

const wholeIn = (value: unknown, min: number, max: number): boolean =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max

/** What is not named here goes to the server as it is, and the server judges it. */
const checkLine = (line: Line): Line => {
  if (line.max_tokens !== undefined && !wholeIn(line.max_tokens, 1, LENGTH_MAX))
    throw new TypeError(`max_tokens must be a whole number from 1 to ${LENGTH_MAX}`)
  if (line.prompt_tokens !== undefined && !wholeIn(line.prompt_tokens, 1, LENGTH_MAX))
    throw new TypeError(`prompt_tokens must be a whole number from 1 to ${LENGTH_MAX}`)
  const { at_ms } = line
  if (at_ms !== undefined && !(typeof at_ms === 'number' && at_ms >= 0 && at_ms <= AT_MAX_MS))
    throw new TypeError(`at_ms must be a number from 0 to ${AT_MAX_MS}`)
  return line
}

/**
 * Requests as the lines give them: {prompt | messages | prompt_tokens, max_tokens, …}, where prompt_tokens asks for a random
 * prompt of that length. What a line leaves out is drawn.
 */
const linesWorkload = (lines: readonly Line[], draw: Draw, startsMs: readonly number[] | null): Workload => ({
  distinct: lines.length,
  startsMs,
  at(index) {
    const { at_ms, prompt_tokens, ...fields } = lines[index % lines.length]
    const random = openRandom(draw.seed, index % lines.length)
    const [input, output] = [draw.input(random), draw.output(random)]
    const given = fields.prompt !== undefined || fields.messages !== undefined
    const prompt = given ? {} : { prompt: promptOf(draw, (prompt_tokens as number | undefined) ?? input, random) }
    return { ...prompt, max_tokens: output, ...fields }
  },
})

const read = (file: string): Line[] => {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    throw new MeshError(Code.NOT_FOUND, `cannot read ${file}`, { cause })
  }
  if (text.length > FILE_MAX_BYTES) throw invalid(`${file} has more than ${FILE_MAX_BYTES} bytes`)
  return parseLines(text, file)
}

/** @throws MeshError NOT_FOUND, or INVALID_ARGUMENT with the number of the line at fault. */
export const promptsWorkload = (file: string, draw: Draw): Workload => linesWorkload(read(file), draw, null)

/** As promptsWorkload, in the order of at_ms, which every line must have. */
export const traceWorkload = (file: string, draw: Draw): Workload => {
  const lines = read(file)
  if (lines.some(({ at_ms }) => at_ms === undefined)) throw invalid(`${file}: every line of a trace needs at_ms`)
  const ordered = lines.toSorted((a, b) => (a.at_ms as number) - (b.at_ms as number))
  return linesWorkload(
    ordered,
    draw,
    ordered.map(({ at_ms }) => at_ms as number),
  )
}

/** What all requests of a run have in common. */
export type Manner = {
  model: string
  endpoint: Endpoint
  temperature: number
  seed: number
  /** Ask for the digest of the logits too. */
  check: boolean
  /** Send OpenAI's own fields only. */
  plain: boolean
  /** Ask the server to go on for a while without a reader. */
  resume: boolean
}

/** Time to come back to a broken stream before the server gives the request up. */
const GRACE_SECONDS = 60

const asMessages = ({ prompt, ...fields }: Fields): Fields => {
  if (fields.messages !== undefined) return fields
  if (typeof prompt !== 'string') throw invalid('chats take text: give messages or a prompt that is a string')
  return { messages: [{ role: 'user', content: prompt }], ...fields }
}

/** A request as it is sent, and what the right answer depends on: the same for all ways of delivering it. */
export type Asked = { body: string; key: string }

export const askedOf = (fields: Fields, manner: Manner): Asked => {
  const { model, endpoint, temperature, seed, check, plain, resume } = manner
  const asked = {
    model,
    temperature,
    seed,
    ...(plain ? {} : { ignore_eos: true }),
    ...(endpoint === 'chat' ? asMessages(fields) : fields),
  }
  const delivery = {
    stream: true,
    stream_options: { include_usage: true },
    ...(plain ? {} : { return_token_ids: true, logits_sha256: check }),
    ...(plain || !resume ? {} : { reconnect_grace_seconds: GRACE_SECONDS }),
  }
  return { body: JSON.stringify({ ...asked, ...delivery }), key: JSON.stringify(asked) }
}
