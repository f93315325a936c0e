import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ClientDuplexStream, credentials, loadPackageDefinition, type Metadata } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { protoPath as healthProto } from 'grpc-health-check'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { connectWorker } from '../../services/gateway/forward/channel.ts'
import { coverage, expertsOf, homeOf, topologyOf } from '../../services/gateway/placement/locate.ts'
import { repair } from '../../services/gateway/placement/repair.ts'
import {
  checkClasses,
  controlWorker,
  reachWorker,
  type WorkerControl,
} from '../../services/gateway/placement/workers.ts'
import { Code } from '../../shared/errors.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { partGraph } from '../../shared/model/part.ts'
import { tokenMetadata } from '../../shared/rpc.ts'
import { demo } from '../support/cluster.ts'
import { type ServiceProcess, startWorker } from '../support/service.ts'

const LIMIT_MS = 60_000
const folder = mkdtempSync(join(tmpdir(), 'expertmesh-holdings-'))
const cache = join(folder, 'cache')
const model = await openModel(demo)
const { config } = model
const hash = await modelHash(model, 'int8', cache)
await model.close()
const expertBytes = partGraph(config, { kind: 'expert', layer: 0, expert: 0 }, 'int8').shardBytes
const sparse = config.layers.flatMap(({ ffn }, layer) => (ffn === 'sparse' ? [layer] : []))
const space = { layers: sparse, experts: config.moe.experts }
const layer = sparse[0]

const running: { stop(): Promise<unknown> }[] = []
const open: { close(): void }[] = []
afterEach(async () => {
  for (const each of open.splice(0)) each.close()
  await Promise.all(running.splice(0).map((worker) => worker.stop()))
})
afterAll(() => rmSync(folder, { recursive: true }))

const start = async (flags: string[] = []): Promise<ServiceProcess> => {
  const worker = await startWorker(['--cache', cache, ...flags])
  running.push(worker)
  return worker
}
const controlOf = (address: string, token: string | null = null): WorkerControl => {
  const control = controlWorker({ address, token })
  open.push(control)
  return control
}
const frame = (): ExpertFrame => ({
  layer,
  rowCount: 1,
  hidden: config.hidden,
  rows: new Uint8Array(config.hidden).fill(200),
  rowScale: Float32Array.of(1),
  rowIndex: Uint32Array.of(0),
  expert: Uint32Array.of(0),
})

describe('a worker', () => {
  it('holds what it is told to load until it is told to unload it', async () => {
    const { address } = await start()
    const control = controlOf(address)
    expect(await control.holdings()).toMatchObject({ models: new Map(), heldBytes: 0, device: 'cpu' })
    expect(await control.load(hash, [{ layer, experts: [3, 0, 0] }], LIMIT_MS)).toEqual({
      loaded: 2,
      heldBytes: 2 * expertBytes,
    })
    expect(await control.load(hash, [{ layer, experts: [0, 1] }], LIMIT_MS)).toEqual({
      loaded: 1,
      heldBytes: 3 * expertBytes,
    })
    const holdings = await control.holdings()
    expect(holdings.models).toEqual(new Map([[hash, [{ layer, experts: [0, 1, 3] }]]]))
    expect(holdings.visible).toContain(hash)
    expect(holdings.numericClass).toMatch(/^[0-9a-f]{64}$/)
    expect(await control.unload(hash, [{ layer, experts: [1, 2] }], LIMIT_MS)).toEqual({
      unloaded: 1,
      heldBytes: 2 * expertBytes,
    })
    expect(await control.unload(hash, [], LIMIT_MS)).toEqual({ unloaded: 2, heldBytes: 0 })
    expect((await control.holdings()).models.size).toBe(0)
  })

  it('shares the work of loads that ask for the same at the same time', async () => {
    const control = controlOf((await start()).address)
    const wanted = [{ layer, experts: [0, 1, 2] }]
    const answers = await Promise.all([1, 2, 3, 4].map(() => control.load(hash, wanted, LIMIT_MS)))
    expect(answers.reduce((sum, { loaded }) => sum + loaded, 0)).toBe(3)
    expect((await control.holdings()).heldBytes).toBe(3 * expertBytes)
  })

  it('tells others what is on its way in, until it is held', async () => {
    const control = controlOf((await start()).address)
    const seen: string[] = []
    const told = new Promise<void>((resolve, reject) => {
      const close = control.watch(({ models, loading, heldBytes }) => {
        const [held, coming] = [models, loading].map((homes) => expertsOf(homes.get(hash) ?? []).length)
        seen.push(`${held} held, ${coming} coming, ${heldBytes / expertBytes} in memory`)
        if (held === 3) resolve()
      }, reject)
      open.push({ close })
    })
    await expect.poll(() => seen).toContain('0 held, 0 coming, 0 in memory')
    await control.load(hash, [{ layer, experts: [0, 1, 2] }], LIMIT_MS)
    await told
    expect(seen).toContain('0 held, 3 coming, 3 in memory')
    expect(seen.at(-1)).toBe('3 held, 0 coming, 3 in memory')
  })

  it('fills its memory to the last expert, refuses one more, and goes on', async () => {
    const room = Math.floor(2 ** 20 / expertBytes)
    const all = sparse.flatMap((l) =>
      Array.from({ length: config.moe.experts }, (_, expert) => ({ layer: l, experts: [expert] })),
    )
    expect(all.length).toBeGreaterThan(room)
    const control = controlOf((await start(['--memory-mib', '1'])).address)
    await expect(control.load(hash, all.slice(0, room + 1), LIMIT_MS)).rejects.toMatchObject({
      code: Code.RESOURCE_EXHAUSTED,
      message: expect.stringMatching(/\(layer \d+, expert \d+\) is the first that does not fit/),
    })
    expect(await control.load(hash, all.slice(0, room), LIMIT_MS)).toMatchObject({ loaded: room })
    await control.unload(hash, all.slice(0, 1), LIMIT_MS)
    expect(await control.load(hash, all.slice(room, room + 1), LIMIT_MS)).toMatchObject({ loaded: 1 })
  })

  it.each([
    ['a model it does not see', 'e'.repeat(64), [{ layer, experts: [0] }]],
    ['a layer without experts', hash, [{ layer: config.layers.length, experts: [0] }]],
    ['an expert beyond the last', hash, [{ layer, experts: [config.moe.experts] }]],
  ])('says that it cannot load %s', async (_, model, experts) => {
    const control = controlOf((await start()).address)
    await expect(control.load(model, experts, LIMIT_MS)).rejects.toMatchObject({ code: Code.NOT_FOUND })
    expect((await control.holdings()).heldBytes).toBe(0)
  })

  it('serves over a unix socket', async () => {
    const address = `unix:${join(folder, 'worker.sock')}`
    expect((await start(['--listen', address])).address).toBe(address)
    await controlOf(address).load(hash, [{ layer, experts: [0] }], LIMIT_MS)
    const channel = connectWorker({ address, token: null, maxFrameBytes: 2 ** 20 })
    open.push(channel)
    expect((await channel.send(frame(), hash, { deadlineMs: LIMIT_MS }).reply).rows).toHaveLength(config.hidden)
  })

  it('tells its health and its services without more than the token', async () => {
    const token = 'x'.repeat(16)
    writeFileSync(join(folder, 'token'), token)
    const { address } = await start(['--token-file', join(folder, 'token')])
    expect(await healthOf(address)).toBe('SERVING')
    await expect(servicesOf(address, null)).rejects.toMatchObject({ code: Code.UNAUTHENTICATED })
    expect(await servicesOf(address, token)).toContain('expertmesh.v1.ExpertService')
  })

  it('ends with status 0 at SIGTERM while a gateway is connected, and answers what it accepted', async () => {
    const worker = await start()
    await controlOf(worker.address).load(hash, [{ layer, experts: [0] }], LIMIT_MS)
    const channel = connectWorker({ address: worker.address, token: null, maxFrameBytes: 2 ** 20 })
    open.push(channel)
    await channel.send(frame(), hash, { deadlineMs: 0 }).reply
    const sent = Array.from({ length: 200 }, () => channel.send(frame(), hash, { deadlineMs: LIMIT_MS }))
    await Promise.race(sent.map(({ reply }) => reply))
    expect(await worker.stop()).toBe(0)
    for (const { status, ...outcome } of await Promise.allSettled(sent.map(({ reply }) => reply))) {
      if (status === 'rejected') expect(outcome).toMatchObject({ reason: { code: Code.UNAVAILABLE } })
    }
  })

  it('says why it cannot start', async () => {
    await expect(start(['--models', folder])).rejects.toThrow(/there is no model to serve in .*--models/)
    await expect(startWorker(['--cache', cache, '--listen', '0.0.0.0:0'])).rejects.toThrow(/--token-file/)
    const { address } = await start()
    await expect(startWorker(['--cache', cache, '--listen', address])).rejects.toThrow(/cannot listen on/)
  })
})

describe('a gateway', () => {
  it('waits for a worker that is not there yet, and names it when it does not come', async () => {
    const address = `unix:${join(folder, 'late.sock')}`
    await expect(reachWorker(controlOf(address), { limitMs: 200 })).rejects.toMatchObject({
      code: Code.UNAVAILABLE,
      message: expect.stringMatching(/late\.sock.* not reached within 200 ms/),
    })
    const reached = reachWorker(controlOf(address), { limitMs: LIMIT_MS })
    await start(['--listen', address])
    expect((await reached).visible).toContain(hash)
  })

  it('does not wait for a worker that refuses its token', async () => {
    writeFileSync(join(folder, 'other'), 'y'.repeat(16))
    const { address } = await start(['--token-file', join(folder, 'other')])
    await expect(reachWorker(controlOf(address, 'z'.repeat(16)), { limitMs: LIMIT_MS })).rejects.toMatchObject({
      code: Code.UNAUTHENTICATED,
    })
  })

  it('covers a model with two workers of unequal memory, in one numeric class', async () => {
    const workers = await Promise.all([start(['--memory-mib', '64', '--threads', '1']), start(['--memory-mib', '32'])])
    const controls = workers.map(({ address }) => controlOf(address))
    const facts = await Promise.all(controls.map((control) => reachWorker(control, { limitMs: LIMIT_MS })))
    const empty = facts.map(({ memoryLimitBytes }) => ({
      holds: [],
      slots: Math.floor(memoryLimitBytes / expertBytes),
      leaving: false,
    }))
    const homes = repair(space, empty, 1).load.map(homeOf)
    await Promise.all(controls.map((control, i) => control.load(hash, homes[i], LIMIT_MS)))
    const holdings = await Promise.all(controls.map((control) => control.holdings()))
    const held = holdings.map(({ models }) => models.get(hash) ?? [])
    expect(held).toEqual(homes)
    expect(coverage(space, held)).toBe(1)
    expect(
      topologyOf(
        1,
        workers.map(({ address }) => address),
        held,
      ).replicas[layer],
    ).toHaveLength(config.moe.experts)
    const classed = holdings.map(({ device, numericClass }, i) => ({
      address: workers[i].address,
      device,
      numericClass,
    }))
    checkClasses(classed[0].numericClass, classed)
    expect(() => checkClasses('0'.repeat(64), classed)).toThrow(
      expect.objectContaining({ code: Code.FAILED_PRECONDITION }),
    )
  })

  it('sees every outstanding frame fail UNAVAILABLE when its worker is killed, and reaches the next one by itself', async () => {
    const address = `unix:${join(folder, 'killed.sock')}`
    const first = await start(['--listen', address])
    await controlOf(address).load(hash, [{ layer, experts: [0] }], LIMIT_MS)
    const channel = connectWorker({ address, token: null, maxFrameBytes: 2 ** 20 })
    open.push(channel)
    const { rows } = await channel.send(frame(), hash, { deadlineMs: 0 }).reply
    first.process.kill('SIGSTOP')
    const sent = Array.from({ length: 50 }, () => channel.send(frame(), hash, { deadlineMs: 0 }))
    const late = channel.send(frame(), hash, { deadlineMs: 20 })
    await expect(late.reply).rejects.toMatchObject({ code: Code.DEADLINE_EXCEEDED })
    first.process.kill('SIGKILL')
    for (const { written, reply } of sent) {
      await expect(reply).rejects.toMatchObject({
        code: Code.UNAVAILABLE,
        message: expect.stringContaining('killed.sock'),
      })
      await written
    }
    await start(['--listen', address])
    const control = controlOf(address)
    await reachWorker(control, { limitMs: LIMIT_MS })
    await control.load(hash, [{ layer, experts: [0] }], LIMIT_MS)
    await expect
      .poll(() => channel.send(frame(), hash, { deadlineMs: LIMIT_MS }).reply.then((reply) => reply.rows, String), {
        timeout: 10_000,
      })
      .toEqual(rows)
  })
})

type Check = (request: object, reply: (error: Error | null, response: { status: string }) => void) => void

const healthOf = (address: string): Promise<string> => {
  const proto = loadPackageDefinition(loadSync(healthProto, { enums: String })) as never as {
    grpc: { health: { v1: { Health: new (address: string, credentials: object) => { Check: Check; close(): void } } } }
  }
  const client = new proto.grpc.health.v1.Health(address, credentials.createInsecure())
  open.push(client)
  return new Promise((resolve, reject) =>
    client.Check({ service: '' }, (error, response) => (error ? reject(error) : resolve(response.status))),
  )
}

const servicesOf = (address: string, token: string | null): Promise<string[]> => {
  const file = join(
    import.meta.dirname,
    '../../node_modules/@grpc/reflection/build/proto/grpc/reflection/v1/reflection.proto',
  )
  const proto = loadPackageDefinition(loadSync(file, { keepCase: true })) as never as {
    grpc: { reflection: { v1: { ServerReflection: new (address: string, credentials: object) => ReflectionClient } } }
  }
  const client = new proto.grpc.reflection.v1.ServerReflection(address, credentials.createInsecure())
  open.push(client)
  return new Promise((resolve, reject) => {
    const stream = client.ServerReflectionInfo(tokenMetadata(token))
    stream.on('error', reject)
    stream.on('data', (answer: { list_services_response: { service: { name: string }[] } }) => {
      resolve(answer.list_services_response.service.map(({ name }) => name))
      stream.end()
    })
    stream.write({ list_services: '' })
  })
}

type ReflectionClient = { ServerReflectionInfo(metadata: Metadata): ClientDuplexStream<object, never>; close(): void }
