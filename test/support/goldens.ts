import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe } from 'vitest'

/** Outputs of Hugging Face transformers' own code for a tiny random checkpoint. */
export type Golden = {
  dir: string
  cases: readonly {
    input_ids: number[]
    greedy: number[]
    /** Of a decoder: at the prompt's last position. */
    last_logits: number[]
    /** Of an encoder–decoder: at the decoder's first. */
    first_logits: number[]
    min_top2_gap: number
  }[]
}

const local = join(import.meta.dirname, '..', 'data', 'goldens')
const beside = join(import.meta.dirname, '..', '..', '..', 'shared', 'goldens')

/** The folder of a golden: the repository's own copy where there is one, else the reference collection beside the checkout. */
const folder = (name: string): string | undefined =>
  [join(local, name), join(beside, name)].find((dir) => existsSync(join(dir, 'expected.json')))

export const golden = (name: string): Golden => {
  const dir = folder(name)
  if (!dir) throw new Error(`golden ${name} is not on this machine`)
  return { dir, cases: JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')).cases }
}

/** Folders of those of these goldens that are on this machine. */
export const goldenFolders = (names: readonly string[]): string[] => names.flatMap((name) => folder(name) ?? [])

/** Runs the suite where the golden is to be had; elsewhere reports it as skipped. */
export const describeGolden = (name: string, suite: () => void): void => {
  if (folder(name)) describe(name, suite)
  else describe.skip(`${name} (its golden is not on this machine)`, suite)
}
