import { dirname, join } from 'node:path'
import { SHM_BYTES_MIN, Shm } from '../../../shared/shm.ts'

/** Of one stream's shared memory. What does not fit goes in messages. */
const REGIONS_BYTES_MAX = 256 * 2 ** 20

type Region = { offset: number; bytes: number }

/**
 * The gateway's part in the memory that it shares with a worker for one stream: who has which region of it. A call's rows go out in
 * its region, and what answers them comes back there. Sizes are powers of two, so that a region given back fits the next.
 */
export class Regions {
  readonly #shm: Shm
  readonly #ready = new Map<number, number[]>()
  readonly #lent = new Map<number, Region>()
  /** Offset 0 stands for none. */
  #end = SHM_BYTES_MIN

  private constructor(shm: Shm) {
    this.#shm = shm
  }

  /** The file of that name beside the worker's socket; null where it cannot be had. */
  static open(socket: string, name: string): Regions | null {
    const path = join(dirname(socket), name)
    const shm = dirname(path) === dirname(socket) ? Shm.open(path) : null
    return shm && new Regions(shm)
  }

  /** Puts a call's rows where the worker finds them, with room for an answer of so many bytes: the offset, or 0 if there is none. */
  put(call: number, rows: Uint8Array, answerBytes: number): number {
    const needed = Math.max(rows.length, answerBytes)
    if (needed < SHM_BYTES_MIN) return 0
    const bytes = 2 ** Math.ceil(Math.log2(needed))
    const offset = this.#ready.get(bytes)?.pop() ?? this.#grow(bytes)
    if (offset === 0) return 0
    this.#lent.set(call, { offset, bytes })
    if (this.#shm.write(rows, offset)) return offset
    this.free(call)
    return 0
  }

  /** Fills `bytes` with what answers a call. False where it has no region as large. */
  read(call: number, bytes: Uint8Array): boolean {
    const region = this.#lent.get(call)
    return region !== undefined && bytes.length <= region.bytes && this.#shm.read(bytes, region.offset)
  }

  /** The worker needs a call's region no longer: it has answered, or was never asked. */
  free(call: number): void {
    const region = this.#lent.get(call)
    if (!region) return
    this.#lent.delete(call)
    const ready = this.#ready.get(region.bytes) ?? []
    this.#ready.set(region.bytes, ready)
    ready.push(region.offset)
  }

  close(): void {
    this.#shm.close()
  }

  #grow(bytes: number): number {
    if (this.#end + bytes > REGIONS_BYTES_MAX) return 0
    this.#end += bytes
    return this.#end - bytes
  }
}
