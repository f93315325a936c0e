/** Smaller arrays are not worth keeping. */
const KEPT_BYTES_MIN = 64 * 1024
/** Kept for later, at most: the rows that two frames of full size bring back. */
const SCRATCH_BYTES_MAX = 128 * 2 ** 20

/**
 * Memory of rows that live no longer than a layer, used again and again. V8 counts arrays to its heap, and collects the sooner the more
 * of them are new; and the system clears every page anew. Whoever reads rows last gives them back; what is never given back the garbage
 * collector takes.
 */
export class Scratch {
  /** Free buffers by size, a power of two. */
  readonly #ready = new Map<number, ArrayBuffer[]>()
  readonly #lent = new WeakSet<ArrayBufferLike>()
  #readyBytes = 0

  /** Bytes with whatever was there before. */
  take(bytes: number): Uint8Array {
    if (bytes < KEPT_BYTES_MIN) return new Uint8Array(bytes)
    const size = 2 ** Math.ceil(Math.log2(bytes))
    const kept = this.#ready.get(size)?.pop()
    if (kept) this.#readyBytes -= size
    const buffer = kept ?? new ArrayBuffer(size)
    this.#lent.add(buffer)
    return new Uint8Array(buffer, 0, bytes)
  }

  floats(length: number): Float32Array {
    const { buffer } = this.take(length * Float32Array.BYTES_PER_ELEMENT)
    return new Float32Array(buffer, 0, length)
  }

  /** Takes back what was taken here, of which nobody may read a view any more; leaves alone what was not. */
  give({ buffer }: ArrayBufferView): void {
    if (!this.#lent.delete(buffer)) return
    if (this.#readyBytes + buffer.byteLength > SCRATCH_BYTES_MAX) return
    this.#readyBytes += buffer.byteLength
    const ready = this.#ready.get(buffer.byteLength) ?? []
    this.#ready.set(buffer.byteLength, ready)
    ready.push(buffer as ArrayBuffer)
  }
}

/** Of this thread. */
export const scratch = new Scratch()
