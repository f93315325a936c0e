import { Code, MeshError } from '../errors.ts'
import { duplicateKey } from './json.ts'

/** One stored tensor: where its bytes lie, counted from the start of the file. */
export type Entry = { file: number; dtype: string; shape: readonly number[]; begin: number; end: number }

/** safetensors' own limit (tensor.rs MAX_HEADER_SIZE). */
export const HEADER_BYTES_MAX = 100_000_000

/** Bits of one number of every type that safetensors knows (tensor.rs Dtype). */
const storedBits: Record<string, number> = {
  ...{ F4: 4, F6_E2M3: 6, F6_E3M2: 6, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8 },
  ...{ BOOL: 8, U8: 8, I8: 8, I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32 },
  ...{ I64: 64, U64: 64, F64: 64, C64: 64 },
}

export const broken = (message: string, cause?: unknown): MeshError =>
  new MeshError(Code.FAILED_PRECONDITION, message, cause === undefined ? {} : { cause })

const CURE = 'download or save the file again'

/** Length in bytes of a safetensors header, from a file's first 8 bytes (little endian) and its size. */
export const headerLength = (path: string, start: Uint8Array, fileBytes: number): number => {
  if (start.length < 8) throw broken(`${path} has ${fileBytes} bytes, too few for a safetensors file; ${CURE}`)
  const length = new DataView(start.buffer, start.byteOffset).getBigUint64(0, true)
  if (length > HEADER_BYTES_MAX)
    throw broken(
      `${path} declares a header of ${length} bytes, the limit is ${HEADER_BYTES_MAX}: no safetensors file; ${CURE}`,
    )
  if (8 + Number(length) > fileBytes)
    throw broken(
      `${path} declares a header of ${length} bytes but has only ${fileBytes} in all: it is cut short; ${CURE}`,
    )
  return Number(length)
}

/**
 * The tensors of a safetensors header (format: safetensors tensor.rs), checked so that every byte of the file's data
 * belongs to exactly one of them.
 */
export const parseHeader = (
  path: string,
  header: Uint8Array,
  { file, fileBytes }: { file: number; fileBytes: number },
): Map<string, Entry> => {
  const start = 8 + header.length
  const entries = Object.entries(parseObject(path, header))
    .filter(([name]) => name !== '__metadata__')
    .map(([name, raw]): [string, Entry] => {
      const { begin, end, ...rest } = readEntry(path, name, raw)
      return [name, { file, ...rest, begin: start + begin, end: start + end }]
    })
    .sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
  let next = start
  for (const [name, { begin, end }] of entries) {
    if (begin !== next) {
      const what = begin < next ? 'overlaps the tensor before it' : `leaves a hole of ${begin - next} bytes before it`
      throw broken(`tensor ${name} of ${path} ${what}: the header is damaged; ${CURE}`)
    }
    next = end
  }
  if (next !== fileBytes) {
    const last = entries.at(-1)?.[0] ?? 'none'
    const what = next > fileBytes ? 'is cut short' : 'has bytes that belong to no tensor'
    throw broken(
      `${path} ${what}: its tensors (the last is ${last}) end at byte ${next}, the file at ${fileBytes}; ${CURE}`,
    )
  }
  return new Map(entries)
}

const parseObject = (path: string, bytes: Uint8Array): Record<string, unknown> => {
  let text: string
  let parsed: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    parsed = JSON.parse(text)
  } catch (cause) {
    throw broken(`the header of ${path} is not JSON in UTF-8: not a safetensors file, or damaged; ${CURE}`, cause)
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw broken(`the header of ${path} is not a JSON object: not a safetensors file, or damaged; ${CURE}`)
  const twice = duplicateKey(text)
  if (twice !== null)
    throw broken(`the header of ${path} names ${twice} twice: which one is meant cannot be told; ${CURE}`)
  return parsed as Record<string, unknown>
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0

const readEntry = (path: string, name: string, raw: unknown): Omit<Entry, 'file'> => {
  const at = `tensor ${name} of ${path}`
  if (typeof raw !== 'object' || raw === null) throw broken(`${at} has no description in the header; ${CURE}`)
  const { dtype, shape, data_offsets: offsets } = raw as Record<string, unknown>
  if (typeof dtype !== 'string' || !Object.hasOwn(storedBits, dtype))
    throw broken(`${at} has the unknown dtype ${JSON.stringify(dtype)}; save the checkpoint in F32, F16 or BF16`)
  if (!Array.isArray(shape) || !shape.every(isCount))
    throw broken(`${at} has the shape ${JSON.stringify(shape)}, which is not a list of counts; ${CURE}`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount) || offsets[0] > offsets[1])
    throw broken(`${at} has data_offsets ${JSON.stringify(offsets)}, which is not a range; ${CURE}`)
  const [begin, end] = offsets
  const bits = shape.reduce((product, n) => product * n, 1) * storedBits[dtype]
  if (bits !== (end - begin) * 8)
    throw broken(
      `${at} is ${dtype} ${JSON.stringify(shape)}, ${bits / 8} bytes, but the header gives it ${end - begin}; ${CURE}`,
    )
  return { dtype, shape, begin, end }
}
