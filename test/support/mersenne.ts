/**
 * Uniform numbers in [0,1) of 24 bits, as torch.manual_seed(seed) and torch.rand give them on a CPU: MT19937 (Matsumoto and Nishimura
 * 1998), seeded by its init_genrand.
 */
export const torchUniform = (seed: number): (() => number) => {
  const state = new Uint32Array(624)
  state[0] = seed
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1_812_433_253, state[i - 1] ^ (state[i - 1] >>> 30)) + i
  let at = 624
  const twist = (): void => {
    for (let i = 0; i < 624; i++) {
      const joined = (state[i] & 0x8000_0000) | (state[(i + 1) % 624] & 0x7fff_ffff)
      state[i] = state[(i + 397) % 624] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908_b0df : 0)
    }
    at = 0
  }
  return () => {
    if (at === 624) twist()
    let y = state[at++]
    y ^= y >>> 11
    y ^= (y << 7) & 0x9d2c_5680
    y ^= (y << 15) & 0xefc6_0000
    y ^= y >>> 18
    return (y & 0xff_ffff) / 2 ** 24
  }
}
