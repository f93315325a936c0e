import type { Spread } from './numbers.ts'

/** Ratios by name, of which more is better; null: not measured. */
export type Ratios = Readonly<Record<string, Spread | null>>

export type Verdict = {
  name: string
  committed: Spread
  /** null: not measured this time, which fails too. */
  now: Spread | null
  /** The least median that is no regression. */
  least: number
  ok: boolean
}

/** How far rounds of one run lay from their median, as a part of it. */
const noise = ({ median, min, max }: Spread): number => Math.max(max - median, median - min) / median

/** Holds medians against the committed ones: they may be less by the noise of both runs, and no more. */
export const compare = (committed: Ratios, now: Ratios): Verdict[] =>
  Object.entries(committed).flatMap(([name, before]): Verdict[] => {
    if (!before) return []
    const after = now[name] ?? null
    const least = before.median * (1 - noise(before) - (after ? noise(after) : 0))
    return [{ name, committed: before, now: after, least, ok: after !== null && after.median >= least }]
  })
