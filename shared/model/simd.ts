import { SIMD } from '../gen/simd.ts'

/** Node has it, but TypeScript knows it from browsers alone. */
declare const WebAssembly: {
  Module: new (code: Uint8Array) => object
  Instance: new (module: object) => { exports: unknown }
}

/** What simd.wat exports; memory is named by byte offsets. */
type Exports = {
  memory: { readonly buffer: ArrayBuffer; grow(pages: number): number }
  addFloats(sum: number, sumEnd: number, row: number, weight: number): void
  addBytes(sum: number, sumEnd: number, row: number, weight: number): void
  largest(values: number, valuesEnd: number): number
  quantise(values: number, valuesEnd: number, bytes: number): number
}

const PAGE_BYTES = 65_536
/** Values that an instruction of bytes takes at once. */
const LANES = 16
/** Values looked at in one go: few enough for a core's own cache. */
const CUT = 8192

const simd = new WebAssembly.Instance(new WebAssembly.Module(Buffer.from(SIMD, 'base64'))).exports as Exports

/** Room for a row of each kind where SIMD instructions reach it, and what they do with it. */
export type RowKernel = {
  /** [hidden] */
  readonly sum: Float32Array
  /** [hidden] */
  readonly floats: Float32Array
  /** [hidden] */
  readonly bytes: Uint8Array
  /** sum += weight · floats, each operation rounded to fp32. */
  addFloats(weight: number): void
  /** sum += weight · (bytes − 128), each operation rounded to fp32. */
  addBytes(weight: number): void
  /** floats → bytes around 128 in units of the largest magnitude / 127, which is given back; not finite where a value was not. */
  quantise(): number
}

const kernels = new Map<number, RowKernel>()

/** This thread's kernel for rows of this width. All share their memory: use one, to its end, before another is asked for. */
export const rowKernel = (hidden: number): RowKernel => {
  const known = kernels.get(hidden)
  if (known) return known
  const kernel = openKernel(hidden)
  kernels.set(hidden, kernel)
  return kernel
}

const openKernel = (hidden: number): RowKernel => {
  const width = Math.ceil(hidden / LANES) * LANES
  const [sum, floats, bytes] = [0, 4 * width, 8 * width]
  reserve(9 * width)
  const { buffer } = simd.memory
  const beyond = new Float32Array(buffer, floats + 4 * hidden, width - hidden)
  return {
    sum: new Float32Array(buffer, sum, hidden),
    floats: new Float32Array(buffer, floats, hidden),
    bytes: new Uint8Array(buffer, bytes, hidden),
    addFloats: (weight) => simd.addFloats(sum, floats, floats, weight),
    addBytes: (weight) => simd.addBytes(sum, floats, bytes, weight),
    quantise() {
      beyond.fill(0)
      return simd.quantise(floats, bytes, bytes)
    },
  }
}

/** The memory moves when it grows, and views of it end. */
const reserve = (bytes: number): void => {
  const missing = bytes - simd.memory.buffer.byteLength
  if (missing <= 0) return
  simd.memory.grow(Math.ceil(missing / PAGE_BYTES))
  kernels.clear()
}

/** The largest magnitude of any number of values; not finite where a value is not. */
export const largestOf = (values: Float32Array): number => {
  const { floats } = rowKernel(CUT)
  let most = 0
  for (let begin = 0; begin < values.length; begin += CUT) {
    const cut = values.subarray(begin, begin + CUT)
    floats.set(cut)
    floats.fill(0, cut.length, Math.ceil(cut.length / LANES) * LANES)
    const largest = simd.largest(floats.byteOffset, floats.byteOffset + 4 * cut.length)
    // A comparison that NaN fails.
    if (!(largest <= most)) most = largest
    if (!(most < Number.POSITIVE_INFINITY)) return most
  }
  return most
}
