import { describe, expect, it } from 'vitest'
import type { Attended } from '../../../../services/gateway/forward/attend.ts'
import { runShared } from '../../../../services/gateway/forward/shared.ts'
import { type ModelConfig, PRECISIONS, type Precision } from '../../../../shared/model/config.ts'
import { float32, type Session, uint8 } from '../../../../shared/model/session.ts'
import { drawConfig } from '../../../support/axes.ts'
import { normals, openPart, randomModel } from '../../../support/model.ts'

const DENSE = 0
const HIDDEN = 64
const WIDTH = 2048
/** More than one run may take while calls are out. */
const ROWS = 2900

const config: ModelConfig = { ...drawConfig(0), hidden: HIDDEN, denseWidth: WIDTH }

const randomRows = (precision: Precision): Pick<Attended, 'rows' | 'scale'> => {
  const floats = normals(ROWS * HIDDEN, 1)
  if (precision !== 'int8') return { rows: floats, scale: null }
  const bytes = Uint8Array.from(floats, (x) => 128 + Math.max(-127, Math.min(127, Math.round(x * 40))))
  return { rows: bytes, scale: normals(ROWS, 2).map(Math.abs) }
}

/** The session, and how many rows each of its runs had. */
const counted = (session: Session): { session: Session; runs: number[] } => {
  const runs: number[] = []
  const run: Session['run'] = (feeds) => {
    runs.push(feeds.rows.dims[0])
    return session.run(feeds)
  }
  return { session: { ...session, run }, runs }
}

describe('a dense layer or the shared experts of a sparse one', () => {
  it.each(PRECISIONS)('runs in small cuts while calls are out, with the same bits: %s', async (precision) => {
    const part = await openPart(randomModel(config, 3), { kind: 'shared', layer: DENSE }, precision)
    const rows = randomRows(precision)
    const attended = { ...rows, h: new Float32Array(0), affinity: null, share: null }
    const { session, runs } = counted(part)
    const cut = await runShared(config, session, DENSE, attended, true)
    expect(runs.length).toBeGreaterThan(1)
    expect(runs.reduce((sum, count) => sum + count, 0)).toBe(ROWS)
    for (const count of runs) expect(count * 3 * HIDDEN * WIDTH).toBeLessThanOrEqual(5e8)

    const x = rows.rows instanceof Float32Array ? float32(rows.rows, [ROWS, HIDDEN]) : uint8(rows.rows, [ROWS, HIDDEN])
    const whole = await part.run({ rows: x, ...(rows.scale && { scale: float32(rows.scale, [ROWS, 1]) }) })
    const bytes = ({ buffer, byteOffset, byteLength }: Float32Array): Buffer =>
      Buffer.from(buffer, byteOffset, byteLength)
    expect(bytes(cut!).equals(bytes(whole.y.data as Float32Array))).toBe(true)
  })

  it('takes every row at once where no call is out', async () => {
    const part = await openPart(randomModel(config, 3), { kind: 'shared', layer: DENSE }, 'int8')
    const { session, runs } = counted(part)
    await runShared(
      config,
      session,
      DENSE,
      { ...randomRows('int8'), h: normals(1, 1), affinity: null, share: null },
      false,
    )
    expect(runs).toEqual([ROWS])
  })

  it('is nothing where a layer has none', async () => {
    const attended = { ...randomRows('int8'), h: normals(1, 1), affinity: null, share: null }
    expect(await runShared(config, null, DENSE, attended, true)).toBeNull()
  })
})
