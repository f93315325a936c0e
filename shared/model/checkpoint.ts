import assert from 'node:assert/strict'
import { type FileHandle, open, readFile, stat } from 'node:fs/promises'
import { endianness } from 'node:os'
import { join, relative, resolve, sep } from 'node:path'
import type { Source } from './config.ts'
import { isStoredType, SCALE_BLOCK, type StoredType, scaleBlocks, storedBytes, widen } from './dtype.ts'
import { broken, type Entry, headerLength, parseHeader } from './header.ts'
import { duplicateKey } from './json.ts'

/** A folder of safetensors files, open for reading by range. */
export type Checkpoint = {
  names: ReadonlySet<string>
  has(name: string): boolean
  /** Absolute paths of the files that hold the tensors. */
  files: readonly string[]
  /**
   * Whether a source can be read, from the headers alone.
   * @throws MeshError FAILED_PRECONDITION naming tensor and cure: missing, another shape, a dtype that is not read,
   * scales that do not fit.
   */
  check(source: Source): void
  /**
   * The numbers of a source as fp32, row-major. Reads only its bytes and allocates nothing beyond the result; fp8 comes
   * out multiplied by its block scales.
   * @throws MeshError as check, and for fp8 codes that are no number, scales that are not finite, and a file that has
   * shrunk.
   */
  read(source: Source): Promise<Float32Array>
  /** Bytes a source takes in the file, without block scales. */
  bytes(source: Source): number
  close(): Promise<void>
}

/** One read call moves at most this much: the kernel moves no more than 2 GiB at once. */
const READ_BYTES_MAX = 1 << 30

/**
 * Opens model.safetensors, or the files that model.safetensors.index.json names where that is not there, and checks
 * every header.
 * @throws MeshError FAILED_PRECONDITION naming file, tensor and cure.
 */
export const openCheckpoint = async (dir: string): Promise<Checkpoint> => {
  assert.equal(endianness(), 'LE', 'safetensors are little endian and are read without conversion')
  const folder = resolve(dir)
  const { files, index } = await findFiles(folder)
  const handles: FileHandle[] = []
  const close = async () => {
    await Promise.all(handles.map((handle) => handle.close()))
  }
  try {
    const entries = new Map<string, Entry>()
    for (const [file, path] of files.entries()) {
      const handle = await open(path).catch((cause) => {
        throw broken(`${path} cannot be opened (${cause.code}); download the checkpoint again`, cause)
      })
      handles.push(handle)
      for (const [name, entry] of await readHeader(handle, path, file))
        if (!index || index.get(name) === file) entries.set(name, entry)
    }
    for (const [name, file] of index ?? [])
      if (!entries.has(name))
        throw broken(
          `the index says that ${files[file]} holds tensor ${name}, but it does not; download the checkpoint again`,
        )
    return { ...reader({ entries, files }, handles), close }
  } catch (error) {
    await close()
    throw error
  }
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  )

/** The files of a checkpoint; index maps tensors to them, null when there is one file only. */
const findFiles = async (folder: string): Promise<{ files: string[]; index: Map<string, number> | null }> => {
  const single = join(folder, 'model.safetensors')
  if (await exists(single)) return { files: [single], index: null }
  const path = join(folder, 'model.safetensors.index.json')
  if (!(await exists(path)))
    throw broken(
      `${folder} has neither model.safetensors nor model.safetensors.index.json; save the checkpoint as safetensors`,
    )
  const text = await readFile(path, 'utf8')
  let map: unknown
  try {
    map = JSON.parse(text)?.weight_map
  } catch (cause) {
    throw broken(`${path} is not JSON; download it again`, cause)
  }
  const twice = duplicateKey(text)
  if (twice !== null) throw broken(`${path} names ${twice} twice; download it again`)
  if (typeof map !== 'object' || map === null) throw broken(`${path} has no weight_map; download it again`)
  const files: string[] = []
  const index = new Map<string, number>()
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== 'string')
      throw broken(`${path} gives tensor ${name} the file ${JSON.stringify(file)}; download it again`)
    const target = resolve(folder, file)
    // Only the name is held to the folder: the hub's cache fills such folders with links to files elsewhere.
    if (relative(folder, target).split(sep)[0] === '..' || target === folder)
      throw broken(
        `${path} places tensor ${name} in ${file}, outside the folder; use a checkpoint from a source you trust`,
      )
    if (!files.includes(target)) {
      if (!(await exists(target)))
        throw broken(`${path} places tensor ${name} in ${file}, which is missing; download it too`)
      files.push(target)
    }
    index.set(name, files.indexOf(target))
  }
  return { files, index }
}

const readHeader = async (handle: FileHandle, path: string, file: number): Promise<Map<string, Entry>> => {
  const { size: fileBytes } = await handle.stat()
  const start = new Uint8Array(Math.min(8, fileBytes))
  await readFully(handle, path, start, 0)
  const header = new Uint8Array(headerLength(path, start, fileBytes))
  await readFully(handle, path, header, 8)
  return parseHeader(path, header, { file, fileBytes })
}

const readFully = async (handle: FileHandle, path: string, into: Uint8Array, position: number): Promise<void> => {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await handle.read(into, done, Math.min(into.length - done, READ_BYTES_MAX), position + done)
    if (bytesRead === 0) throw broken(`${path} has become shorter while it was being read; download it again`)
    done += bytesRead
  }
}

type Found = { entry: Entry; dtype: StoredType; width: number; rows: { begin: number; end: number } }

type Stored = { entries: ReadonlyMap<string, Entry>; files: readonly string[] }

const find = (stored: Stored, { name, shape, rows }: Source): Found => {
  const { entries, files } = stored
  const entry = entries.get(name)
  if (!entry)
    throw broken(
      `the checkpoint lacks tensor ${name} ${show(shape)} that its config.json calls for; download all of its files`,
    )
  if (show(entry.shape) !== show(shape))
    throw broken(
      `tensor ${name} of ${files[entry.file]} has shape ${show(entry.shape)}, ` +
        `its config.json calls for ${show(shape)}; use the files of one checkpoint`,
    )
  if (!isStoredType(entry.dtype))
    throw broken(
      `tensor ${name} of ${files[entry.file]} is ${entry.dtype}; ` +
        'save the checkpoint in F32, F16, BF16 or block-scaled F8_E4M3',
    )
  if (entry.dtype === 'F8_E4M3') findScales(stored, name, entry)
  const height = shape.slice(0, -1).reduce((product, n) => product * n, 1)
  const range = rows ?? { begin: 0, end: height }
  assert(
    range.begin >= 0 && range.begin <= range.end && range.end <= height,
    `${name} has no rows ${range.begin}…${range.end}`,
  )
  return { entry, dtype: entry.dtype, width: shape.at(-1) ?? 1, rows: range }
}

const findScales = ({ entries, files }: Stored, name: string, { shape, file }: Entry): Entry => {
  const scales = entries.get(`${name}_scale_inv`)
  const cure = 'save the checkpoint in BF16, or with block scales as DeepSeek-V3 does'
  if (shape.length < 2 || !scales)
    throw broken(`tensor ${name} of ${files[file]} is F8_E4M3 without ${name}_scale_inv; ${cure}`)
  const blocks = [...shape.slice(0, -2), ...shape.slice(-2).map((n) => Math.ceil(n / SCALE_BLOCK))]
  if (scales.dtype !== 'F32' || show(scales.shape) !== show(blocks))
    throw broken(
      `tensor ${name}_scale_inv of ${files[scales.file]} is ${scales.dtype} ${show(scales.shape)}, not F32 ` +
        `${show(blocks)}: one scale per ${SCALE_BLOCK} × ${SCALE_BLOCK} block of ${name} ${show(shape)}; ${cure}`,
    )
  return scales
}

const reader = (stored: Stored, handles: readonly FileHandle[]): Omit<Checkpoint, 'close'> => {
  const { entries, files } = stored

  const load = async (entry: Entry, dtype: StoredType, begin: number, count: number): Promise<Float32Array> => {
    const out = new Float32Array(count)
    const bytes = count * storedBytes[dtype]
    const into = new Uint8Array(out.buffer, out.byteLength - bytes, bytes)
    await readFully(handles[entry.file], files[entry.file], into, entry.begin + begin * storedBytes[dtype])
    widen(out, dtype)
    return out
  }

  return {
    names: new Set(entries.keys()),
    has: (name) => entries.has(name),
    files,
    check: (source) => {
      find(stored, source)
    },
    bytes: (source) => {
      const { dtype, width, rows } = find(stored, source)
      return (rows.end - rows.begin) * width * storedBytes[dtype]
    },
    read: async (source) => {
      const { entry, dtype, width, rows } = find(stored, source)
      const out = await load(entry, dtype, rows.begin * width, (rows.end - rows.begin) * width)
      if (dtype !== 'F8_E4M3') return out
      if (out.some(Number.isNaN))
        throw broken(
          `tensor ${source.name} of ${files[entry.file]} holds fp8 codes that are no number; download it again`,
        )
      const found = findScales(stored, source.name, entry)
      const scales = await load(found, 'F32', 0, (found.end - found.begin) / 4)
      if (!scales.every(Number.isFinite))
        throw broken(
          `tensor ${source.name}_scale_inv of ${files[found.file]} holds scales that are not finite; download it again`,
        )
      scaleBlocks(out, scales, { height: entry.shape.at(-2)!, width, begin: rows.begin })
      return out
    },
  }
}

const show = (shape: readonly number[]): string => `[${shape.join(', ')}]`
