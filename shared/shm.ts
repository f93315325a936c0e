/**
 * Memory that two processes of one machine share: a file, of which the kernel keeps one copy however many have it open. It is read and
 * written rather than mapped, for Node maps none: a copy on either side, and nothing between.
 */
import { accessSync, closeSync, constants, openSync, readSync, unlinkSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { MeshError } from './errors.ts'

/** Name under which a worker tells, in the first metadata of a Forward stream, which file beside its socket is that stream's. */
export const SHM_METADATA = 'expertmesh-shm'

/** Messages whose rows are smaller carry them: they fit one read of the socket. */
export const SHM_BYTES_MIN = 16 * 1024

/** Linux keeps what lies here in memory alone. */
const MEMORY_FOLDER = '/dev/shm'

/** Where sockets, and with them shared memory, are best put. */
export const socketFolder = (): string =>
  attempt(() => accessSync(MEMORY_FOLDER, constants.W_OK)) === null ? tmpdir() : MEMORY_FOLDER

export class Shm {
  readonly #path: string
  readonly #fd: number

  private constructor(path: string, flags: 'wx+' | 'r+') {
    this.#path = path
    this.#fd = openSync(path, flags, 0o600)
  }

  /** A new file, which nobody but this user may open; null where there can be none. */
  static create(path: string): Shm | null {
    return attempt(() => new Shm(path, 'wx+'))
  }

  /** The file that another process has created; null where it cannot be had. Takes its name away: it goes with the last process that has it open. */
  static open(path: string): Shm | null {
    const shm = attempt(() => new Shm(path, 'r+'))
    if (shm) attempt(() => unlinkSync(path))
    return shm
  }

  /** Fills `bytes` from there. False where the file ends before, or nothing can be. */
  read(bytes: Uint8Array, offset: number): boolean {
    if (!Number.isSafeInteger(offset)) return false
    for (let at = 0; at < bytes.length; ) {
      const count = readSync(this.#fd, bytes, at, bytes.length - at, offset + at)
      if (count === 0) return false
      at += count
    }
    return true
  }

  /** False where there is no room. */
  write(bytes: Uint8Array, offset: number): boolean {
    return (
      attempt(() => {
        for (let at = 0; at < bytes.length; ) at += writeSync(this.#fd, bytes, at, bytes.length - at, offset + at)
        return true
      }) ?? false
    )
  }

  close(): void {
    attempt(() => unlinkSync(this.#path))
    closeSync(this.#fd)
  }
}

/** What the system refuses (no room, no right, no such file) is no error here: messages carry their rows then. */
const attempt = <T>(work: () => T): T | null => {
  try {
    return work()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).syscall === undefined) throw MeshError.from(error)
    return null
  }
}
