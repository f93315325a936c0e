import assert from 'node:assert/strict'

const floatBytes = Float32Array.BYTES_PER_ELEMENT

/**
 * Float32Arrays by exact length, used again instead of allocated again. What is lent out and what lies ready together never
 * pass limitBytes: to make room, ready arrays are let go, those of the length given back longest ago first.
 * An array comes with old contents.
 */
export class Pool {
  readonly #limitBytes: number
  /** Length → ready arrays; the order of the lengths is that of the last give. */
  readonly #ready = new Map<number, Float32Array[]>()
  #bytes = 0

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes
  }

  /** Bytes of all arrays, lent out or ready. */
  get bytes(): number {
    return this.#bytes
  }

  take(length: number): Float32Array {
    const ready = this.#ready.get(length)?.pop()
    if (ready) return ready
    this.#makeRoom(length * floatBytes)
    const data = new Float32Array(length)
    this.#bytes += data.byteLength
    return data
  }

  give(data: Float32Array): void {
    if (data.length === 0) return
    const ready = this.#ready.get(data.length) ?? []
    this.#ready.delete(data.length)
    this.#ready.set(data.length, ready)
    ready.push(data)
  }

  /** Lets go of every ready array. */
  close(): void {
    for (const [length, ready] of this.#ready) this.#bytes -= ready.length * length * floatBytes
    this.#ready.clear()
  }

  #makeRoom(bytes: number): void {
    for (const [length, ready] of this.#ready) {
      while (this.#bytes + bytes > this.#limitBytes && ready.pop()) this.#bytes -= length * floatBytes
      if (this.#bytes + bytes <= this.#limitBytes) return
      this.#ready.delete(length)
    }
    assert(this.#bytes + bytes <= this.#limitBytes, 'arrays lent out leave room for one more')
  }
}
