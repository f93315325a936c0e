/** Numbers uniform in [0, 1). */
export type Random = () => number

/** Rounds in which the generator forgets how alike two seeds were. */
const MIX_ROUNDS = 15

/**
 * The same numbers for the same seed and stream, and unrelated ones for any other pair: sfc32, the 32-bit small fast
 * counting generator of PractRand.
 */
export const openRandom = (seed: number, stream = 0): Random => {
  let a = stream >>> 0
  let b = seed >>> 0
  let c = Math.floor(seed / 2 ** 32) >>> 0
  let counter = 1
  const draw = (): number => {
    const sum = (a + b + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (((c << 21) | (c >>> 11)) + sum) | 0
    return sum >>> 0
  }
  for (let round = 0; round < MIX_ROUNDS; round++) draw()
  return () => draw() / 2 ** 32
}

/** Normal with mean 0 and deviation 1 (Box and Muller, 1958). */
export const normal = (random: Random): number =>
  Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())

/** Gamma with this shape and scale 1 (Marsaglia and Tsang, 2000); shape 1 is the exponential distribution. */
export const gamma = (random: Random, shape: number): number => {
  if (shape < 1) return gamma(random, shape + 1) * (1 - random()) ** (1 / shape)
  const d = shape - 1 / 3
  const c = 1 / Math.sqrt(9 * d)
  for (;;) {
    const x = normal(random)
    const v = (1 + c * x) ** 3
    if (v > 0 && Math.log(1 - random()) < (x * x) / 2 + d * (1 - v + Math.log(v))) return d * v
  }
}
