/** Weight of what was known before, per sample: about the last fifty count. */
const DECAY = 0.98
/** Fewer say nothing yet. */
const SAMPLES_MIN = 5

/**
 * How long a runner takes for so many assignments: a line through (assignments, milliseconds) by least squares, old samples
 * counting less and less.
 */
export class Latency {
  #samples = 0
  #n = 0
  #x = 0
  #y = 0
  #xx = 0
  #xy = 0
  #widest = 0

  get known(): boolean {
    return this.#samples >= SAMPLES_MIN
  }

  add(assignments: number, ms: number): void {
    this.#samples++
    this.#n = this.#n * DECAY + 1
    this.#x = this.#x * DECAY + assignments
    this.#y = this.#y * DECAY + ms
    this.#xx = this.#xx * DECAY + assignments * assignments
    this.#xy = this.#xy * DECAY + assignments * ms
    this.#widest = Math.max(this.#widest, assignments)
  }

  /** Milliseconds, at least 0; NaN while nothing is known. Beyond what was seen it grows at least in proportion. */
  predictMs(assignments: number): number {
    const { meanX, meanY, slope } = this.#line()
    const ms = meanY + slope * (assignments - meanX)
    return Math.max(ms, assignments > this.#widest ? (meanY * assignments) / meanX : 0, 0)
  }

  /**
   * Milliseconds per assignment: what a runner is compared by. Large calls count for more, because what every call costs would make
   * those look slow that are sent little.
   */
  get msPerAssignment(): number {
    return this.#xy / this.#xx
  }

  #line(): { meanX: number; meanY: number; slope: number } {
    const [meanX, meanY] = [this.#x / this.#n, this.#y / this.#n]
    const spread = this.#xx / this.#n - meanX * meanX
    // Rounding leaves a little spread where all samples have one size.
    const slope = spread > 1e-6 * meanX * meanX ? (this.#xy / this.#n - meanX * meanY) / spread : 0
    return { meanX, meanY, slope: Math.max(0, slope) }
  }
}
