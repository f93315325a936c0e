import { InvalidArgumentError } from 'commander'

/** A commander parser for whole numbers from `least` on. */
export const whole =
  (least: number) =>
  (text: string): number => {
    const value = /^\d+$/.test(text) ? Number(text) : 0
    if (value >= least) return value
    throw new InvalidArgumentError(`It must be a whole number of at least ${least}.`)
  }
