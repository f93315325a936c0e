import { describe, expect, test } from 'vitest'
import { arrivals, asRoomComes } from '../../../../services/cli/load/arrivals.ts'
import { keepPace, type Plan } from '../../../../services/cli/load/pace.ts'
import { openRandom } from '../../../../services/cli/load/random.ts'

const never = new AbortController().signal
const closed = (more: Partial<Plan> = {}): Plan => ({
  starts: asRoomComes(),
  requests: 50,
  durationMs: Number.POSITIVE_INFINITY,
  inFlightMax: 4,
  ...more,
})
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('the pace', () => {
  test('a closed loop keeps exactly so many under way and sends each request once', async () => {
    const sent: number[] = []
    let underWay = 0
    let most = 0
    const pace = await keepPace(
      closed(),
      async (index) => {
        sent.push(index)
        most = Math.max(most, ++underWay)
        for (let turns = 0; turns < 1 + (index % 3); turns++) await turn()
        underWay -= 1
      },
      never,
    )
    expect(sent).toEqual(Array.from({ length: 50 }, (_, index) => index))
    expect(most).toBe(4)
    expect(pace).toMatchObject({ waited: 0, unsent: 0, inFlightMost: 4 })
  })

  test('a closed loop ends with its duration', async () => {
    let sent = 0
    await keepPace(
      closed({ requests: Number.POSITIVE_INFINITY, durationMs: 30 }),
      async () => {
        sent += 1
        await turn()
      },
      never,
    )
    expect(sent).toBeGreaterThan(0)
  })

  test('an open loop sends at the intended times, whatever the answers do', async () => {
    const plan = closed({ starts: arrivals(2_000, 1, openRandom(1)), requests: 40, inFlightMax: 1000 })
    const intended: number[] = []
    let release = (): void => {}
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    const begunMs = performance.now()
    const pace = await keepPace(
      plan,
      async (index, intendedMs) => {
        expect(performance.now()).toBeGreaterThanOrEqual(intendedMs)
        intended.push(intendedMs)
        // No answer comes before the last request is sent.
        if (index === 39) release()
        await gate
      },
      never,
    )
    expect(pace).toMatchObject({ waited: 0, unsent: 0, inFlightMost: 40 })
    const starts = arrivals(2_000, 1, openRandom(1))
    const offsets = intended.map((at) => at - (starts.next().value as number))
    // All are the same distance from the plan: that of its begin.
    for (const offset of offsets) expect(offset).toBeCloseTo(offsets[0], 6)
    expect(offsets[0]).toBeGreaterThanOrEqual(begunMs)
  })

  test('with no room arrivals wait and are counted, their intended start unchanged', async () => {
    const waits: number[] = []
    const pace = await keepPace(
      closed({ starts: [0, 0, 0, 0, 0, 0], inFlightMax: 2 }),
      async (_, intendedMs) => {
        waits.push(performance.now() - intendedMs)
        await turn()
      },
      never,
    )
    expect(pace).toMatchObject({ waited: 4, unsent: 0, inFlightMost: 2 })
    expect(waits).toEqual(waits.toSorted((a, b) => a - b))
  })

  test('what still waits when the duration is over is not sent, and said', async () => {
    let sent = 0
    const plan = closed({ starts: [0, 0, 0, 1, 60_000], durationMs: 20, inFlightMax: 1 })
    const pace = await keepPace(
      plan,
      async () => {
        sent += 1
        const begunMs = performance.now()
        while (performance.now() - begunMs < 40) await turn()
      },
      never,
    )
    expect({ sent, ...pace }).toMatchObject({ sent: 1, unsent: 3 })
  })

  test('stopping sends no more and ends what is under way', async () => {
    const stop = new AbortController()
    const ended: number[] = []
    await keepPace(
      closed({ requests: Number.POSITIVE_INFINITY }),
      (index, _, life) =>
        new Promise((resolve) => {
          life.signal.addEventListener('abort', () => {
            ended.push(index)
            resolve()
          })
          if (index === 3) stop.abort()
        }),
      stop.signal,
    )
    expect(ended.sort()).toEqual([0, 1, 2, 3])
  })

  test('stopping does not wait for the next arrival', async () => {
    const stop = new AbortController()
    const done = keepPace(closed({ starts: [0, 3_600_000] }), async () => stop.abort(), stop.signal)
    await expect(done).resolves.toMatchObject({ inFlightMost: 1 })
  })

  test('what a start rejects with ends the run', async () => {
    const failing = keepPace(closed(), async (index) => Promise.reject(new Error(`no ${index}`)), never)
    await expect(failing).rejects.toThrow('no 0')
  })
})
