import { InvalidArgumentError } from 'commander'
import { normal, type Random } from './random.ts'

/** No context is longer. */
export const LENGTH_MAX = 10_000_000
const SIGMA_MAX = 4

/** A distribution of lengths in tokens, at least 1. */
export type Lengths = (random: Random) => number

const NUMBER = '(\\d+(?:\\.\\d+)?)'
const FIXED = /^(\d+)$/
const UNIFORM = /^(\d+)-(\d+)$/
const LOGNORMAL = new RegExp(`^${NUMBER}~${NUMBER}(?:/(\\d+))?$`)

const refuse = (text: string): never => {
  throw new InvalidArgumentError(
    `It must be N, A-B with A ≤ B, or MEAN~SIGMA or MEAN~SIGMA/MAX, lengths from 1 to ${LENGTH_MAX} and SIGMA to ${SIGMA_MAX}; "${text}" is none.`,
  )
}

/**
 * A commander parser. `N`: always N. `A-B`: uniform over the whole numbers from A to B. `MEAN~SIGMA`: lognormal, MEAN its
 * arithmetic mean and SIGMA the deviation of its logarithm, so that the median is MEAN · exp(−SIGMA²/2); rounded, and cut to
 * [1, MAX], which lowers the mean where MAX is near it.
 */
export const lengths = (text: string): Lengths => {
  const length = (digits: string): number => {
    const value = Number(digits)
    return value >= 1 && value <= LENGTH_MAX ? value : refuse(text)
  }
  const fixed = FIXED.exec(text)
  if (fixed) {
    const n = length(fixed[1])
    return () => n
  }
  const uniform = UNIFORM.exec(text)
  if (uniform) {
    const [least, most] = [length(uniform[1]), length(uniform[2])]
    if (least > most) refuse(text)
    return (random) => least + Math.floor(random() * (most - least + 1))
  }
  const lognormal = LOGNORMAL.exec(text) ?? refuse(text)
  const [mean, sigma, most] = [length(lognormal[1]), Number(lognormal[2]), length(lognormal[3] ?? String(LENGTH_MAX))]
  if (sigma > SIGMA_MAX) refuse(text)
  const mu = Math.log(mean) - (sigma * sigma) / 2
  return (random) => Math.min(most, Math.max(1, Math.round(Math.exp(mu + sigma * normal(random)))))
}
