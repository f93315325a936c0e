/** A person's say in the placement: a JSON file of rules, read once at start. */
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { invalid, MeshError } from '../../../shared/errors.ts'
import type { Wish } from './balance.ts'
import type { ExpertSpace } from './locate.ts'

/** What --help says of the file. */
export const RULES_HELP = `
Placement file: {"rules": [RULE, …]}. Every rule has one of
  "pin": WORKERS      each of these workers holds the experts
  "forbid": WORKERS   none of these workers holds them
  "replicate": N      N workers hold them, or as many as have room
and says which experts: "layers" and "experts", each a number, "3-8", "*" or a list of those (default
"*"; layers count from 0 over the whole model, dense ones included). WORKERS is an address or a list
of addresses in which * stands for any characters; one that begins with ! takes workers out again.
Rules about workers that are not there wait for them.
  {"rules": [
    {"replicate": 3, "layers": "1-4", "experts": [0, "8-15"]},
    {"pin": "10.0.0.7:*", "layers": 26},
    {"forbid": ["*", "!10.0.1.*"], "layers": "20-26"}
  ]}`

const RULES_MAX = 10_000
const REPLICAS_MAX = 4096
const NUMBERS = /^\*$|^\d+$|^(?<first>\d+)-(?<last>\d+)$/

const number = z.union([z.number(), z.string()])
const numbers = z
  .union([number, z.array(number)], { error: 'must be a number, a range like "3-8", "*", or a list of those' })
  .default('*')
  .transform((value) => [value].flat().map(String))
  .superRefine((patterns, context) => {
    for (const pattern of patterns) {
      const match = NUMBERS.exec(pattern)
      const { first, last } = match?.groups ?? {}
      if (!match) context.addIssue(`has ${JSON.stringify(pattern)}: write a number, a range like "3-8", or "*"`)
      else if (first && Number(first) > Number(last))
        context.addIssue(`has "${pattern}", which ends before it begins: write "${last}-${first}"`)
    }
  })
const workers = z
  .union([z.string().min(1), z.array(z.string().min(1)).min(1)], {
    error: 'must be a worker address or a list of them',
  })
  .transform((value) => [value].flat())
const countError = { error: `must be a whole number from 1 to ${REPLICAS_MAX}` }
const count = z.int(countError).min(1, countError).max(REPLICAS_MAX, countError)
const known = (what: string) => ({
  error: (issue: { code?: string | undefined; keys?: unknown }) =>
    issue.code === 'unrecognized_keys'
      ? `has ${[issue.keys].flat().map((key) => `"${key}"`)}, which means nothing here: ${what}`
      : `must be an object: ${what}`,
})
const rule = z
  .strictObject(
    {
      pin: workers.optional(),
      forbid: workers.optional(),
      replicate: count.optional(),
      layers: numbers,
      experts: numbers,
    },
    known('write "pin", "forbid" or "replicate", and "layers" and "experts"'),
  )
  .refine(({ pin, forbid, replicate }) => [pin, forbid, replicate].filter((said) => said !== undefined).length === 1, {
    error: 'must have exactly one of "pin", "forbid" and "replicate": write two rules where two are meant',
  })
const file = z.strictObject(
  { rules: z.array(rule, { error: 'must be a list of rules' }).max(RULES_MAX) },
  known('write {"rules": [RULE, …]}'),
)

export type Rules = z.infer<typeof file>['rules']

/**
 * Rules from a placement file's text.
 * @param where the file's name, for messages.
 * @throws MeshError INVALID_ARGUMENT naming the place in the file and what to write there.
 */
export const parseRules = (text: string, where: string): Rules => {
  let raw: unknown
  try {
    raw = JSON.parse(text)
  } catch (cause) {
    throw invalid(`${where} is not JSON (${cause instanceof Error ? cause.message : cause}): correct it`)
  }
  const { data, error } = file.safeParse(raw)
  if (data) return data.rules
  const [{ path, message }] = error.issues
  const at = path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('')
  throw invalid(`${where}: ${at === '' ? 'the file' : at.replace(/^\./, '')} ${message}`)
}

/** @throws MeshError INVALID_ARGUMENT when the file cannot be read or does not hold rules. */
export const readRules = (path: string): Rules => {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw invalid(`--placement ${path} cannot be read (${MeshError.from(cause).message}): name a readable file`)
  }
  return parseRules(text, path)
}

/** @throws MeshError INVALID_ARGUMENT for a rule about layers or experts that the model does not have. */
export const checkRules = (rules: Rules, { layers, experts }: ExpertSpace): void => {
  const all = [...Array(experts).keys()]
  for (const [index, each] of rules.entries()) {
    for (const [what, patterns, known] of [
      ['layers', each.layers, layers],
      ['experts', each.experts, all],
    ] as const)
      for (const pattern of patterns)
        if (!known.some(matching([pattern])))
          throw invalid(
            `rules[${index}].${what} has "${pattern}", but the model has ${what} ${known[0]} to ${known[known.length - 1]}${what === 'layers' ? ' with experts' : ''}: name some of those`,
          )
  }
}

const NO_WISH: Wish = { pinned: [], forbidden: new Set(), copies: 1 }

/** What the rules say of each expert while these are the workers. */
export const wishesOf = (rules: Rules, addresses: readonly string[]): ((layer: number, expert: number) => Wish) => {
  const compiled = rules.map(({ pin = [], forbid = [], replicate = 1, layers, experts }) => ({
    layer: matching(layers),
    expert: matching(experts),
    pinned: matched(pin, addresses),
    forbidden: matched(forbid, addresses),
    copies: replicate,
  }))
  return (layer, expert) => {
    const said = compiled.filter((one) => one.layer(layer) && one.expert(expert))
    if (said.length === 0) return NO_WISH
    return {
      pinned: [...new Set(said.flatMap(({ pinned }) => pinned))],
      forbidden: new Set(said.flatMap(({ forbidden }) => forbidden)),
      copies: Math.max(...said.map(({ copies }) => copies)),
    }
  }
}

const matching = (patterns: readonly string[]): ((value: number) => boolean) => {
  const ranges = patterns.map((pattern): [number, number] => {
    if (pattern === '*') return [0, Number.POSITIVE_INFINITY]
    const [first, last = first] = pattern.split('-').map(Number)
    return [first, last]
  })
  return (value) => ranges.some(([first, last]) => first <= value && value <= last)
}

/** Indices of the addresses that a list of globs names. */
const matched = (globs: readonly string[], addresses: readonly string[]): number[] => {
  const test = (glob: string): RegExp =>
    new RegExp(`^${glob.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')}$`)
  const named = globs.filter((glob) => !glob.startsWith('!')).map(test)
  const taken = globs.filter((glob) => glob.startsWith('!')).map((glob) => test(glob.slice(1)))
  const isNamed = (address: string): boolean => named.some((glob) => glob.test(address))
  const isTaken = (address: string): boolean => taken.some((glob) => glob.test(address))
  return [...addresses.keys()].filter((i) => isNamed(addresses[i]) && !isTaken(addresses[i]))
}
