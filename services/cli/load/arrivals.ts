import { gamma, type Random } from './random.ts'

/**
 * Intended starts of an open loop, in ms after its begin, without end. The gaps are gamma distributed with mean 1 / rate and
 * shape `burstiness`: 1 is a Poisson process, less comes in bursts, more is steadier (as in vllm bench serve).
 */
export function* arrivals(ratePerSecond: number, burstiness: number, random: Random): Generator<number> {
  const scaleMs = 1000 / (ratePerSecond * burstiness)
  for (let atMs = 0; ; ) {
    atMs += gamma(random, burstiness) * scaleMs
    yield atMs
  }
}

/** Starts of a closed loop: null, as soon as there is room. */
export function* asRoomComes(): Generator<null> {
  for (;;) yield null
}
