/**
 * Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): a bijection of a
 * 128-bit counter under a 64-bit key. It has no state, so any draw can be made again from its coordinates alone.
 */
const ROUNDS = 10
const MULTIPLIER_0 = 0xd2511f53
const MULTIPLIER_1 = 0xcd9e8d57
const WEYL_0 = 0x9e3779b9
const WEYL_1 = 0xbb67ae85

export type Words4 = readonly [number, number, number, number]

/** The upper 32 bits of a 32 × 32 bit product, from four 16-bit ones: a double cannot hold all 64. */
const high = (a: number, b: number): number => {
  const aLow = a & 0xffff
  const aHigh = a >>> 16
  const bLow = b & 0xffff
  const bHigh = b >>> 16
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const carry = aLow * bHigh + (middle & 0xffff)
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0
}

/** Four random 32-bit words for a counter (four 32-bit words) and a key (two). */
export const philox = (counter: Words4, key: readonly [number, number]): Words4 => {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = high(MULTIPLIER_0, c0)
    const low0 = Math.imul(MULTIPLIER_0, c0)
    const high1 = high(MULTIPLIER_1, c2)
    const low1 = Math.imul(MULTIPLIER_1, c2)
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c1 = low1 >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0 >>> 0
    k0 = (k0 + WEYL_0) >>> 0
    k1 = (k1 + WEYL_1) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** A number in [0, 1) with 53 random bits, for an unsigned 64-bit seed, a choice and a position. */
export const uniform = (seed: bigint, choice: number, position: number): number => {
  const key = [Number(seed & 0xffffffffn), Number((seed >> 32n) & 0xffffffffn)] as const
  const [a, b] = philox([position, choice, 0, 0], key)
  return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53
}
