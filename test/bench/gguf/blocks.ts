/**
 * ggml's block formats, as its reference quantisers make them (quantize_row_q8_0_ref and quantize_row_q4_0_ref of ggml-quants.c): 32
 * weights of a row share one half-precision scale.
 */
import { toHalf } from '../../support/numbers.ts'

export type GgmlType = 'F32' | 'Q8_0' | 'Q4_0'

const BLOCK = 32

/** Bytes of so many weights of whole rows; rows are multiples of 32 where they are cut into blocks. */
export const ggmlBytes = (type: GgmlType, weights: number): number =>
  type === 'F32' ? weights * 4 : (weights / BLOCK) * blockBytes[type]

const blockBytes = { Q8_0: 2 + BLOCK, Q4_0: 2 + BLOCK / 2 } as const

/** Bit pattern of the half-precision number nearest to a normal one; what is smaller or not finite goes the slow way. */
const halfOf = (value: number): number => {
  bits.f[0] = value
  const exponent = (bits.u[0] >>> 23) & 0xff
  if (exponent < 113 || exponent > 141) return toHalf(value)
  const rounded = bits.u[0] + 0xfff + ((bits.u[0] >>> 13) & 1)
  return ((rounded >>> 16) & 0x8000) | (((rounded & 0x7fffffff) >>> 13) - (112 << 10))
}
const floats = new Float32Array(1)
const bits = { f: floats, u: new Uint32Array(floats.buffer) }

/** Rows of a matrix in a format: the weights themselves, or their blocks one after the other. */
export const toBlocks = (type: GgmlType, weights: Float32Array): Uint8Array => {
  if (type === 'F32') return new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength)
  const out = new Uint8Array(ggmlBytes(type, weights.length))
  const write = type === 'Q8_0' ? writeQ8 : writeQ4
  for (let from = 0, at = 0; from < weights.length; from += BLOCK, at += blockBytes[type]) write(weights, from, out, at)
  return out
}

/** q = round(x / d), halves away from zero, with d = max|x| / 127. */
const writeQ8 = (weights: Float32Array, from: number, out: Uint8Array, at: number): void => {
  let most = 0
  for (let i = from; i < from + BLOCK; i++) most = Math.max(most, Math.abs(weights[i]))
  const scale = Math.fround(most / 127)
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
  const half = halfOf(scale)
  out[at] = half
  out[at + 1] = half >>> 8
  for (let i = 0; i < BLOCK; i++) {
    const x = Math.fround(weights[from + i] * inverse)
    out[at + 2 + i] = x < 0 ? -Math.floor(0.5 - x) : Math.floor(x + 0.5)
  }
}

/** q = ⌊x / d + 8.5⌋ up to 15, with d the weight farthest from 0 over −8; weight i lies beside weight i + 16 in a byte. */
const writeQ4 = (weights: Float32Array, from: number, out: Uint8Array, at: number): void => {
  let [farthest, most] = [0, 0]
  for (let i = from; i < from + BLOCK; i++) {
    if (Math.abs(weights[i]) <= most) continue
    farthest = weights[i]
    most = Math.abs(farthest)
  }
  const scale = Math.fround(farthest / -8)
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
  const half = halfOf(scale)
  out[at] = half
  out[at + 1] = half >>> 8
  const code = (i: number): number =>
    Math.min(15, Math.trunc(Math.fround(Math.fround(weights[from + i] * inverse) + 8.5)))
  for (let i = 0; i < BLOCK / 2; i++) out[at + 2 + i] = code(i) | (code(i + BLOCK / 2) << 4)
}
