import { createHash, randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

type Known = { path: string; bytes: number; mtimeMs: number; inode: number; sha256: string }

/** Digests remembered in one cache folder; the oldest are forgotten first. */
const KNOWN_MAX = 4096

/**
 * Hex SHA-256 of each file's content. Digests are remembered in cacheDir/digests.json by path, size, modification time
 * and inode, so that gigabytes are read once and not at every start.
 */
export const fileDigests = async (paths: readonly string[], cacheDir: string): Promise<string[]> => {
  const cache = join(cacheDir, 'digests.json')
  const known = await readKnown(cache)
  const found: Known[] = []
  for (const path of paths) {
    const { size: bytes, mtimeMs, ino: inode } = await stat(path)
    const same = known.find((k) => k.path === path && k.bytes === bytes && k.mtimeMs === mtimeMs && k.inode === inode)
    found.push(same ?? { path, bytes, mtimeMs, inode, sha256: await digest(path) })
  }
  if (found.some((file) => !known.includes(file))) {
    const others = known.filter((k) => !paths.includes(k.path))
    await mkdir(cacheDir, { recursive: true })
    const temporary = `${cache}.${randomUUID()}`
    await writeFile(temporary, JSON.stringify([...others, ...found].slice(-KNOWN_MAX)))
    await rename(temporary, cache)
  }
  return found.map(({ sha256 }) => sha256)
}

/** A cache that cannot be understood is an empty one: it is written anew. */
const readKnown = async (cache: string): Promise<Known[]> => {
  try {
    const parsed: unknown = JSON.parse(await readFile(cache, 'utf8'))
    return Array.isArray(parsed) ? parsed.filter(isKnown) : []
  } catch {
    return []
  }
}

const isKnown = (value: unknown): value is Known =>
  typeof value === 'object' && value !== null && 'sha256' in value && /^[0-9a-f]{64}$/.test(String(value.sha256))

const digest = async (path: string): Promise<string> => {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk)
  return hash.digest('hex')
}
