import type { ClientDuplexStream } from '@grpc/grpc-js'

export type Stream = ClientDuplexStream<Buffer, Buffer>

/**
 * Bytes that socket buffers surely take. http2 says "written" before it has handed them over, and one turn of the loop later
 * it has; beyond this size the rest may sit in this process until the loop turns again, which a kernel would prevent for its
 * whole run (a unix socket takes 200 KB). Then only an answer tells.
 */
const UNFENCED_BYTES_MAX = 128 * 1024

type Held = { call: number; bytes: Buffer; resolve(): void }

/**
 * What leaves on one stream, and when it has left. http2 reads nothing while a write of its own waits for the socket, so two ends
 * that both write more than the sockets take would wait for each other for ever: here a frame that the socket may not take whole
 * waits until every frame before it is answered.
 */
export class Outbox {
  readonly stream: Stream
  readonly #fence: () => Promise<void>
  /** Calls without an answer: the stream's bytes up to the end of each, which its answer proves to have arrived. */
  readonly #owed = new Map<number, number>()
  readonly #unwritten = new Set<() => void>()
  #held: Held[] = []
  #sentBytes = 0
  #arrivedBytes = 0

  /** `fence` asks the other end for an answer as soon as it has read what was written. */
  constructor(stream: Stream, fence: () => Promise<void>) {
    this.stream = stream
    this.#fence = fence
  }

  /** Resolves when the last byte has left this process, when the call is dropped, and when the stream is closed. */
  write(call: number, bytes: Buffer): Promise<void> {
    if (this.#held.length === 0 && this.#fits(bytes)) return this.#put(call, bytes)
    return new Promise((resolve) => this.#held.push({ call, bytes, resolve }))
  }

  /** Writes a message of a few bytes at once. */
  ask(call: number, bytes: Buffer): void {
    this.#owed.set(call, this.#sentBytes)
    this.stream.write(bytes)
  }

  /** The answer to a call is here, whatever it says. */
  answered(call: number): void {
    this.#arrivedBytes = Math.max(this.#arrivedBytes, this.#owed.get(call) ?? 0)
    this.#owed.delete(call)
    this.#advance()
  }

  /** Forgets a call that is not written yet; false when it is. */
  drop(call: number): boolean {
    const held = this.#held.find((each) => each.call === call)
    if (!held) return false
    this.#held = this.#held.filter((each) => each !== held)
    held.resolve()
    this.#advance()
    return true
  }

  close(): void {
    for (const { resolve } of this.#held) resolve()
    for (const written of this.#unwritten) written()
    this.#held = []
    this.#unwritten.clear()
    this.stream.cancel()
  }

  #fits(bytes: Buffer): boolean {
    return this.#owed.size === 0 || this.#sentBytes - this.#arrivedBytes + bytes.length <= UNFENCED_BYTES_MAX
  }

  #advance(): void {
    while (this.#held.length > 0 && this.#fits(this.#held[0].bytes)) {
      const [{ call, bytes, resolve }] = this.#held.splice(0, 1)
      void this.#put(call, bytes).then(resolve)
    }
  }

  #put(call: number, bytes: Buffer): Promise<void> {
    this.#sentBytes += bytes.length
    this.#owed.set(call, this.#sentBytes)
    const flushed = new Promise<void>((resolve) => {
      this.#unwritten.add(resolve)
      this.stream.write(bytes, () =>
        setImmediate(() => {
          this.#unwritten.delete(resolve)
          resolve()
        }),
      )
    })
    return this.#sentBytes - this.#arrivedBytes > UNFENCED_BYTES_MAX ? this.#fence() : flushed
  }
}
