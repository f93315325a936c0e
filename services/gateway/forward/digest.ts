import { createHash } from 'node:crypto'
import { endianness } from 'node:os'

/** SHA-256 [32 bytes] of one position's logits [V] as little-endian fp32, before penalties, bias and temperature. */
export const positionDigest = (logits: Float32Array): Uint8Array => {
  const bytes = Buffer.from(logits.buffer, logits.byteOffset, logits.byteLength)
  return createHash('sha256')
    .update(endianness() === 'LE' ? bytes : Buffer.from(bytes).swap32())
    .digest()
}

/**
 * `logits_sha256`: SHA-256 over the concatenated digests of positions, in hex. Positions are pushed in output order; because the
 * digests travel with their tokens, a request resumed elsewhere pushes the old ones and goes on. `hex` may be read at any time.
 */
export const runningDigest = (): { push(digest: Uint8Array): void; hex(): string } => {
  const hash = createHash('sha256')
  return {
    push: (digest) => {
      hash.update(digest)
    },
    hex: () => hash.copy().digest('hex'),
  }
}
