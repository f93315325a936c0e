import { Code, MeshError } from '../../errors.ts'

/** A JSON object of a checkpoint, read key by key. null counts as absent, as in transformers. */
export type Keys = {
  has(key: string): boolean
  /** A whole number ≥ 1. */
  count(key: string, absent?: number): number
  /** A whole number ≥ 0. */
  whole(key: string, absent?: number): number
  /** A finite number. */
  number(key: string, absent?: number): number
  flag(key: string, absent: boolean): boolean
  word<T extends string>(key: string, allowed: readonly T[], absent: T): T
  /** Token ids, given as one or as a list; null when absent. */
  ids(key: string): number[] | null
  /** Lists of token ids; empty when absent. */
  idLists(key: string): number[][]
  /** A list of whole numbers ≥ 0; empty when absent. */
  wholes(key: string): number[]
  words(key: string): string[] | null
  object(key: string): Keys | null
  /** Refuses a value that expertmesh cannot serve; `why` goes on where the key and its value end. */
  refuse(key: string, why: string): MeshError
}

const isWhole = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/**
 * @param where what the values were read from, for messages: config.json, or config.json's rope_scaling.
 * @throws MeshError FAILED_PRECONDITION (from every reader) naming key and value.
 */
export const readKeys = (raw: unknown, where: string): Keys => {
  if (!isObject(raw)) throw new MeshError(Code.FAILED_PRECONDITION, `${where} is not a JSON object; download it again`)

  const refuse = (key: string, why: string): MeshError =>
    new MeshError(Code.FAILED_PRECONDITION, `${where} has ${key} ${JSON.stringify(raw[key]) ?? 'missing'}, ${why}`)
  const has = (key: string): boolean => raw[key] !== undefined && raw[key] !== null
  const read = <T>(key: string, is: (value: unknown) => value is T, what: string, absent: T | undefined): T => {
    if (!has(key) && absent !== undefined) return absent
    const value = raw[key]
    if (!is(value)) throw refuse(key, `but ${what} is needed`)
    return value
  }
  const list = <T>(key: string, is: (value: unknown) => value is T, what: string): T[] | null =>
    has(key)
      ? read(key, (value): value is T[] => Array.isArray(value) && value.every(is), `a list of ${what}s`, undefined)
      : null

  const isCount = (value: unknown): value is number => isWhole(value) && value > 0
  const isIds = (value: unknown): value is number[] => Array.isArray(value) && value.every(isWhole)
  const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)
  const isFlag = (value: unknown): value is boolean => typeof value === 'boolean'
  const isWord = (value: unknown): value is string => typeof value === 'string'

  return {
    has,
    refuse,
    count: (key, absent) => read(key, isCount, 'a whole number above 0', absent),
    whole: (key, absent) => read(key, isWhole, 'a whole number', absent),
    number: (key, absent) => read(key, isNumber, 'a number', absent),
    flag: (key, absent) => read(key, isFlag, 'true or false', absent),
    word: <T extends string>(key: string, allowed: readonly T[], absent: T): T => {
      const is = (value: unknown): value is T => allowed.some((word) => word === value)
      return read(key, is, `only ${allowed.map((word) => `"${word}"`).join(' or ')} is supported`, absent)
    },
    ids: (key) => (isWhole(raw[key]) ? [raw[key]] : list(key, isWhole, 'token id')),
    idLists: (key) => list(key, isIds, 'list of token id') ?? [],
    wholes: (key) => list(key, isWhole, 'whole number') ?? [],
    words: (key) => list(key, isWord, 'word'),
    object: (key) => (has(key) ? readKeys(raw[key], `${where}'s ${key}`) : null),
  }
}
