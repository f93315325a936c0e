/** The GGUF file format, version 3 (docs/gguf.md of ggml): a header of keys and tensors, then the tensors' bytes. */
import { type FileHandle, open } from 'node:fs/promises'
import { type GgmlType, ggmlBytes } from './blocks.ts'

/** Keys carry the type they are read as. */
export type GgufValue =
  | { string: string }
  | { uint32: number }
  | { float32: number }
  | { strings: readonly string[] }
  | { int32s: readonly number[] }
  | { float32s: readonly number[] }

export type GgufTensor = {
  name: string
  /** As checkpoints say it, the fastest dimension last; the file has it the other way round. */
  shape: readonly number[]
  type: GgmlType
  /** Its bytes, in runs, read when it is its turn. */
  runs(): AsyncIterable<Uint8Array>
}

const VERSION = 3
const ALIGNMENT = 32
const typeCodes: Record<GgmlType, number> = { F32: 0, Q4_0: 2, Q8_0: 8 }

const u32 = (value: number): Buffer => {
  const out = Buffer.alloc(4)
  out.writeUInt32LE(value)
  return out
}
const u64 = (value: number): Buffer => {
  const out = Buffer.alloc(8)
  out.writeBigUInt64LE(BigInt(value))
  return out
}
const text = (value: string): Buffer => {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(bytes.length), bytes])
}

const i32 = (value: number): Buffer => u32(value >>> 0)
const f32 = (value: number): Buffer => {
  const out = Buffer.alloc(4)
  out.writeFloatLE(value)
  return out
}

/** Codes of the types of values, and of lists, whose type and length precede their values. */
const kinds = { uint32: 4, int32: 5, float32: 6, string: 8, list: 9 } as const

const encodeValue = (value: GgufValue): Buffer => {
  const list = (kind: number, values: readonly Buffer[]): Buffer =>
    Buffer.concat([u32(kinds.list), u32(kind), u64(values.length), ...values])
  if ('uint32' in value) return Buffer.concat([u32(kinds.uint32), u32(value.uint32)])
  if ('float32' in value) return Buffer.concat([u32(kinds.float32), f32(value.float32)])
  if ('string' in value) return Buffer.concat([u32(kinds.string), text(value.string)])
  if ('int32s' in value) return list(kinds.int32, value.int32s.map(i32))
  if ('float32s' in value) return list(kinds.float32, value.float32s.map(f32))
  return list(kinds.string, value.strings.map(text))
}

const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

const bytesOf = ({ type, shape }: GgufTensor): number =>
  ggmlBytes(
    type,
    shape.reduce((product, n) => product * n, 1),
  )

/** Everything before the tensors' bytes, padded to where those begin. */
const header = (keys: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensor[]): Buffer => {
  const parts = [Buffer.from('GGUF'), u32(VERSION), u64(tensors.length), u64(keys.size)]
  for (const [key, value] of keys) parts.push(text(key), encodeValue(value))
  let offset = 0
  for (const tensor of tensors) {
    const { name, shape, type } = tensor
    parts.push(text(name), u32(shape.length), ...shape.toReversed().map(u64), u32(typeCodes[type]), u64(offset))
    offset += aligned(bytesOf(tensor))
  }
  const length = parts.reduce((sum, part) => sum + part.length, 0)
  return Buffer.concat([...parts, Buffer.alloc(aligned(length) - length)])
}

/** Writes the file; holds one run in memory. */
export const writeGguf = async (
  path: string,
  keys: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensor[],
): Promise<void> => {
  const file = await open(path, 'w')
  try {
    await writeAll(file, header(keys, tensors))
    for (const tensor of tensors) {
      const expected = bytesOf(tensor)
      let bytes = 0
      for await (const run of tensor.runs()) {
        await writeAll(file, run)
        bytes += run.length
      }
      if (bytes !== expected) throw new Error(`${tensor.name} has ${bytes} bytes where ${expected} were announced`)
      await writeAll(file, Buffer.alloc(aligned(bytes) - bytes))
    }
  } finally {
    await file.close()
  }
}

const writeAll = async (file: FileHandle, bytes: Uint8Array): Promise<void> => {
  for (let done = 0; done < bytes.length; ) done += (await file.write(bytes, done, bytes.length - done)).bytesWritten
}
