import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { spaceOf } from '../../services/gateway/placement/fleet.ts'
import { expertsOf, homeOf, missing } from '../../services/gateway/placement/locate.ts'
import { controlWorker, type WorkerControl } from '../../services/gateway/placement/workers.ts'
import { Code } from '../../shared/errors.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { partGraph } from '../../shared/model/part.ts'
import { demo } from '../support/cluster.ts'
import { complete } from '../support/complete.ts'
import { type ServiceProcess, startGateway, startWorker } from '../support/service.ts'

const LIMIT_MS = 60_000
const folder = mkdtempSync(join(tmpdir(), 'expertmesh-idle-'))
const cache = join(folder, 'cache')
const model = await openModel(demo)
const { config } = model
const wide = await modelHash(model, 'fp32', cache)
const narrow = await modelHash(model, 'int8', cache)
const third = await modelHash(model, 'int4', cache)
await model.close()
const [wideBytes, narrowBytes] = (['fp32', 'int8'] as const).map(
  (precision) => partGraph(config, { kind: 'expert', layer: 0, expert: 0 }, precision).shardBytes,
)
const all = missing(spaceOf(config), [])
/** Room for all experts in fp32, and for a few more in int8. */
const memoryMib = Math.ceil((all.length * wideBytes) / 2 ** 20)
const fewest = Math.floor((memoryMib * 2 ** 20 - all.length * wideBytes) / narrowBytes)

let worker: ServiceProcess
const controls: WorkerControl[] = []
beforeEach(async () => {
  worker = await startWorker(['--cache', cache, '--memory-mib', String(memoryMib)])
})
afterEach(async () => {
  for (const control of controls.splice(0)) control.close()
  expect(await worker.stop()).toBe(0)
})
afterAll(() => rmSync(folder, { recursive: true }))

const controlFor = (model: string): WorkerControl => {
  const control = controlWorker({ address: worker.address, token: null, model })
  controls.push(control)
  return control
}
/** As a gateway does, until the returned function is called. */
const need = (model: string): (() => void) =>
  controlFor(model).watch(
    () => {},
    () => {},
  )
const heldOf = async (model: string): Promise<number> =>
  expertsOf((await controlFor(model).holdings()).models.get(model) ?? []).length

describe('experts of a model that no gateway needs', () => {
  it('make room for another model, as many as it takes', async () => {
    await controlFor(wide).load(wide, homeOf(all), LIMIT_MS)
    const control = controlFor(narrow)
    expect(await control.holdings()).toMatchObject({ idleBytes: all.length * wideBytes })
    expect(await controlFor(wide).holdings()).toMatchObject({ idleBytes: 0 })
    await control.load(narrow, homeOf(all.slice(0, fewest)), LIMIT_MS)
    expect(await heldOf(wide)).toBe(all.length)
    await control.load(narrow, homeOf(all.slice(0, fewest + 1)), LIMIT_MS)
    expect([await heldOf(wide), await heldOf(narrow)]).toEqual([all.length - 1, fewest + 1])
  })

  it('stay where dropping them all would not be enough', async () => {
    await controlFor(third).load(third, homeOf(all.slice(0, 2)), LIMIT_MS)
    await controlFor(wide).load(wide, homeOf(all.slice(1)), LIMIT_MS)
    need(wide)
    const other = controlFor(narrow)
    await expect.poll(async () => (await other.holdings()).idleBytes).toBeLessThan(wideBytes)
    await expect(other.load(narrow, homeOf(all), LIMIT_MS)).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED })
    expect([await heldOf(third), await heldOf(wide), await heldOf(narrow)]).toEqual([2, all.length - 1, 0])
  })

  it('stay while a gateway does, and go when it is gone', async () => {
    const control = controlFor(wide)
    await controlFor(narrow).load(narrow, homeOf(all.slice(0, fewest + 1)), LIMIT_MS)
    await control.load(wide, homeOf(all.slice(0, 1)), LIMIT_MS)
    const end = need(narrow)
    await expect.poll(async () => (await control.holdings()).idleBytes).toBe(0)
    await expect(control.load(wide, homeOf(all), LIMIT_MS)).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED })
    expect([await heldOf(wide), await heldOf(narrow)]).toEqual([1, fewest + 1])
    end()
    await expect.poll(async () => (await control.holdings()).idleBytes).toBe((fewest + 1) * narrowBytes)
    await control.load(wide, homeOf(all), LIMIT_MS)
    expect([await heldOf(wide), await heldOf(narrow)]).toEqual([all.length, fewest])
  })

  it('make room when the gateway of another model starts, and not while theirs runs', async () => {
    const start = (precision: string): Promise<ServiceProcess> =>
      startGateway(['--model', demo, '--precision', precision, '--worker', worker.address, '--cache', cache])
    const gateway = await start('fp32')
    await expect(start('int8')).rejects.toThrow(/the workers have room for/)
    const { ids } = await complete(gateway.address, [1, 2, 3], { max_tokens: 8 })
    expect(ids).toHaveLength(8)
    expect(await gateway.stop()).toBe(0)
    const next = await start('int8')
    expect((await complete(next.address, [1, 2, 3], { max_tokens: 8 })).ids).toHaveLength(8)
    expect(await heldOf(narrow)).toBe(all.length)
    expect(await heldOf(wide)).toBeGreaterThan(0)
    expect(await next.stop()).toBe(0)
  })
})
