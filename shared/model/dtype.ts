/** The stored number formats that can be read, by safetensors name, with their size in bytes. */
export const storedBytes = { F32: 4, F16: 2, BF16: 2, F8_E4M3: 1 } as const
export type StoredType = keyof typeof storedBytes

export const isStoredType = (dtype: string): dtype is StoredType => Object.hasOwn(storedBytes, dtype)

/** Half precision (IEEE 754 binary16): 5 exponent bits of bias 15, 10 of mantissa. */
const half = (code: number): number => {
  const sign = code & 0x8000 ? -1 : 1
  const exponent = (code >> 10) & 0x1f
  const mantissa = code & 0x3ff
  if (exponent === 0x1f) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25))
}

/** e4m3fn (arXiv:2209.05433): 4 exponent bits of bias 7, 3 of mantissa, no infinities, NaN at 0x7f and 0xff. */
const float8 = (code: number): number => {
  const sign = code & 0x80 ? -1 : 1
  const exponent = (code >> 3) & 0xf
  const mantissa = code & 7
  if ((code & 0x7f) === 0x7f) return Number.NaN
  return sign * (exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10))
}

/** Bits, not floats: a NaN's payload does not survive a table of floats. */
let halfBits: Int32Array | undefined
const halfTable = (): Int32Array => {
  halfBits ??= new Int32Array(Float32Array.from({ length: 1 << 16 }, (_, code) => half(code)).buffer)
  return halfBits
}

const float8Values = Float32Array.from({ length: 256 }, (_, code) => float8(code))

/**
 * Widens numbers in place to fp32. The stored bytes lie at the end of `out`'s memory, so that no second buffer is
 * needed: an element is read before any write reaches it, because out[i] never ends beyond the beginning of stored
 * element i + 1. F8_E4M3 comes out without its block scales.
 */
export const widen = (out: Float32Array, dtype: StoredType): void => {
  const { buffer, byteOffset, length } = out
  const begin = byteOffset + length * (4 - storedBytes[dtype])
  const bits = new Int32Array(buffer, byteOffset, length)
  if (dtype === 'BF16') {
    // Two numbers per load take half the time. An odd length leaves the pairs unaligned.
    const pairs = length % 2 === 0 ? new Int32Array(buffer, begin, length / 2) : new Int32Array(0)
    for (let i = 0; i < pairs.length; i++) {
      const pair = pairs[i]
      bits[2 * i] = pair << 16
      bits[2 * i + 1] = pair & 0xffff0000
    }
    const stored = new Uint16Array(buffer, begin, length)
    for (let i = 2 * pairs.length; i < length; i++) bits[i] = stored[i] << 16
  } else if (dtype === 'F16') {
    const stored = new Uint16Array(buffer, begin, length)
    const table = halfTable()
    for (let i = 0; i < length; i++) bits[i] = table[stored[i]]
  } else if (dtype === 'F8_E4M3') {
    const stored = new Uint8Array(buffer, begin, length)
    for (let i = 0; i < length; i++) out[i] = float8Values[stored[i]]
  }
}

/** Side of the square blocks that share one scale in block-scaled fp8 checkpoints. */
export const SCALE_BLOCK = 128

/**
 * Multiplies rows [begin, begin + rows) of matrices [E, height, width], flattened to [E·height, width] and given
 * without what lies before `begin`, by their block scales [E, ⌈height/128⌉, ⌈width/128⌉], in place.
 */
export const scaleBlocks = (
  out: Float32Array,
  scales: Float32Array,
  { height, width, begin }: { height: number; width: number; begin: number },
): void => {
  const down = Math.ceil(height / SCALE_BLOCK)
  const across = Math.ceil(width / SCALE_BLOCK)
  for (let row = 0; row * width < out.length; row++) {
    const matrix = Math.floor((begin + row) / height)
    const block = matrix * down + Math.floor(((begin + row) % height) / SCALE_BLOCK)
    for (let b = 0; b < across; b++) {
      const scale = scales[block * across + b]
      const end = row * width + Math.min((b + 1) * SCALE_BLOCK, width)
      for (let i = row * width + b * SCALE_BLOCK; i < end; i++) out[i] *= scale
    }
  }
}
