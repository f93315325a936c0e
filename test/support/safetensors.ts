import { readFileSync } from 'node:fs'

export type Stored = { dtype: string; shape: number[]; data: Uint8Array }

export const bytes = (array: ArrayBufferView): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
export const floats = (...values: number[]): Uint8Array => bytes(Float32Array.from(values))

/** A safetensors file with this header, right or wrong. */
export const withHeader = (header: string | Uint8Array, data: Uint8Array): Uint8Array => {
  const text = Buffer.from(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, data])
}

/** A safetensors file with a padded header, its tensors in the order given. */
export const safetensors = (tensors: Record<string, Stored>): Uint8Array => {
  let offset = 0
  const entries = Object.entries(tensors).map(([name, { dtype, shape, data }]) => {
    const begin = offset
    offset += data.length
    return [name, { dtype, shape, data_offsets: [begin, offset] }]
  })
  const header = `${JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) })}   `
  return withHeader(header, Buffer.concat(Object.values(tensors).map(({ data }) => data)))
}

type Entry = { shape: number[]; data_offsets: [begin: number, end: number] }

const entriesOf = (file: Buffer): Map<string, Entry> => {
  const { __metadata__, ...header } = JSON.parse(file.subarray(8, dataAt(file)).toString())
  return new Map(Object.entries<Entry>(header))
}
const dataAt = (file: Buffer): number => 8 + Number(file.readBigUInt64LE(0))

/** Shapes of all tensors of a safetensors file. */
export const shapesOf = (path: string): Map<string, number[]> =>
  new Map([...entriesOf(readFileSync(path))].map(([name, { shape }]) => [name, shape]))

/** An F32 tensor of a whole file with a padded header, in place: writing to it changes the file's bytes. */
export const floatsIn = (file: Buffer, name: string): Float32Array => {
  const entry = entriesOf(file).get(name)
  if (!entry) throw new Error(`the file has no tensor ${name}`)
  const [begin, end] = entry.data_offsets
  const from = file.byteOffset + dataAt(file)
  return new Float32Array(file.buffer, from + begin, (end - begin) / Float32Array.BYTES_PER_ELEMENT)
}
