import type { Positions } from '../../shared/model/config.ts'

const { fround } = Math

/** The row [H] that a sinusoidal model adds at a position: sin of all frequencies, then cos of all. arXiv:1706.03762 §3.5. */
export const sinusoid = (position: number, width: number, divisor: number): Float32Array =>
  Float32Array.from({ length: width }, (_, i) => {
    const half = width / 2
    const angle = position * 10_000 ** (-(i % half) / divisor)
    return i < half ? Math.sin(angle) : Math.cos(angle)
  })

/**
 * The bucket of a key that lies `distance` after its query, of T5's relative attention bias (arXiv:1910.10683 §2.1; modeling_t5.py, in
 * fp32 tensors): the first half of the buckets hold one distance each, the rest are spaced logarithmically. Both ways, half of the
 * buckets are for keys that follow.
 */
export const bucketOf = (
  distance: number,
  { buckets, maxDistance }: Positions & { kind: 'relative' },
  bothWays: boolean,
): number => {
  const count = bothWays ? buckets / 2 : buckets
  const offset = bothWays && distance > 0 ? count : 0
  const away = bothWays ? Math.abs(distance) : Math.max(-distance, 0)
  const exact = Math.floor(count / 2)
  if (away < exact) return offset + away
  const share = fround(fround(Math.log(fround(away / exact))) / fround(Math.log(maxDistance / exact)))
  return offset + Math.min(exact + Math.trunc(fround(share * (count - exact))), count - 1)
}
