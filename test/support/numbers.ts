import type { StoredType } from '../../shared/model/dtype.ts'

/** A seeded generator of numbers in [0, 1) (mulberry32: fast, and good enough for weights). */
export const uniform = (seed: number): (() => number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Normally distributed numbers of deviation 1 (Box and Muller 1958). */
export const gaussian = (seed: number): (() => number) => {
  const next = uniform(seed)
  return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
}

/** A seed that depends on every character of a text (FNV-1a). */
export const seedOf = (text: string): number => {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}

const roundToEven = (x: number): number => {
  const below = Math.floor(x)
  const rest = x - below
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below
}

/** The nearest half-precision number's code; ties go to even. */
export const toHalf = (x: number): number => {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
  const size = Math.abs(x)
  if (Number.isNaN(x)) return 0x7e00
  if (size >= 65520) return sign | 0x7c00
  const exponent = Math.max(Math.floor(Math.log2(size)), -14)
  // A mantissa that rounds up to the next power of two carries into the exponent, which is the right code.
  const steps = roundToEven(size * 2 ** (10 - exponent))
  return sign | (exponent === -14 ? steps : ((exponent + 14) << 10) + steps)
}

/** Numbers as the bytes of a dtype, rounded to nearest, ties to even; for F8_E4M3 the values are codes already. */
export const encode = (values: Float32Array, dtype: StoredType): Uint8Array => {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  if (dtype === 'F8_E4M3') return Uint8Array.from(values)
  const out = new Uint16Array(values.length)
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < out.length; i++)
    out[i] = dtype === 'F16' ? toHalf(values[i]) : (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) >>> 16
  return new Uint8Array(out.buffer)
}
