import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { demo } from './cluster.ts'
import { type ServiceProcess, startGateway, startWorker } from './service.ts'
import { type Ask, quantile } from './streams.ts'

/** A gateway and workers that come and go, each at an address it keeps. */
export type Fleet = {
  url: string
  gateway: ServiceProcess
  /** null: not running. */
  workers: (ServiceProcess | null)[]
  addresses: readonly string[]
  start(index: number): Promise<void>
  signal(index: number, name: NodeJS.Signals): void
  /** SIGKILL, and the end of the process. */
  kill(index: number): Promise<void>
  /** SIGTERM, and the end of the process. */
  drain(index: number): Promise<void>
  stop(): Promise<void>
}

export type FleetOptions = {
  workers: number
  replicas: number
  /** What the gateway dials in place of a worker's own address. */
  through?: (address: string, index: number) => Promise<string>
  /** More flags of the gateway. */
  gatewayFlags?: readonly string[]
  /** Workers listen on TCP ports rather than unix sockets. */
  tcp?: boolean
  /** A model folder; the demo model unless said otherwise. */
  model?: string
  workerFlags?: readonly string[]
  /** Told the process id of each worker as it starts. */
  onSpawn?: (index: number, pid: number) => void
}

/** A model on a fleet that is ready to serve. */
export const startFleet = async ({
  workers: count,
  replicas,
  through,
  gatewayFlags = [],
  tcp,
  model = demo,
  workerFlags = [],
  onSpawn = () => {},
}: FleetOptions): Promise<Fleet> => {
  const directory = await mkdtemp(join(tmpdir(), 'expertmesh-fleet-'))
  const workers: (ServiceProcess | null)[] = []
  const addresses = Array.from({ length: count }, (_, i) => (tcp ? '127.0.0.1:0' : `unix:${directory}/${i}`))
  const start = async (index: number): Promise<void> => {
    const flags = ['--listen', addresses[index], '--models', model, '--threads', '1', ...workerFlags]
    const worker = await startWorker(flags, {}, (pid) => onSpawn(index, pid))
    addresses[index] = worker.address
    workers[index] = worker
  }
  const end = async (index: number, name: NodeJS.Signals): Promise<void> => {
    const child = workers[index]?.process
    workers[index] = null
    if (!child) return
    const exit = once(child, 'exit')
    child.kill(name)
    await exit
  }
  await Promise.all(addresses.map((_, i) => start(i)))
  const dialled = await Promise.all(addresses.map((address, i) => through?.(address, i) ?? address))
  const flags = ['--model', model, '--threads', '1', '--replicas', String(replicas), ...gatewayFlags]
  const gateway = await startGateway([...flags, ...dialled.flatMap((address) => ['--worker', address])])
  const fleet: Fleet = {
    url: gateway.address,
    gateway,
    workers,
    addresses,
    start,
    signal: (index, name) => workers[index]?.process.kill(name),
    kill: (index) => end(index, 'SIGKILL'),
    drain: (index) => end(index, 'SIGTERM'),
    async stop() {
      await gateway.stop()
      await Promise.all(workers.map((_, i) => end(i, 'SIGKILL')))
      await rm(directory, { recursive: true, force: true })
    },
  }
  await ready(fleet, replicas)
  return fleet
}

/** Waits until every expert has so many live holders. */
export const ready = async (fleet: Fleet, replicas: number, limitMs = 60_000): Promise<void> => {
  const until = performance.now() + limitMs
  for (;;) {
    const [readyz, metrics] = await Promise.all([fetch(`${fleet.url}/readyz`), fetch(`${fleet.url}/metrics`)])
    const text = await metrics.text()
    const fewest = Number(/^expertmesh_replicas_min(?:\{.*\})? (\d+)/m.exec(text)?.[1] ?? Number.NaN)
    await readyz.arrayBuffer()
    if (readyz.ok && fewest >= replicas) return
    if (performance.now() > until)
      throw new Error(`after ${limitMs} ms: /readyz ${readyz.status}, fewest holders ${fewest}\n${fleet.gateway.log()}`)
    await delay(50)
  }
}

/** Sixteen prompts of unlike length, half of them sampled. */
export const asks: readonly Ask[] = Array.from({ length: 16 }, (_, i) => ({
  prompt: ['In the beginning', 'La commande', 'Die Datei', 'const client ='][i % 4].repeat(1 + (i % 3)),
  max_tokens: 48,
  temperature: i % 2,
  ...(i % 2 ? { top_p: 0.9, seed: i } : {}),
}))

/** One line for people: what a scenario measured. */
export const summary = (name: string, gapsMs: readonly number[], completed: number, failed: number): string => {
  const [p50, p99, max] = [quantile(gapsMs, 0.5), quantile(gapsMs, 0.99), gapsMs.at(-1) ?? 0].map((ms) => ms.toFixed(0))
  return `${name}: ${completed} completed, ${failed} failed; between tokens p50 ${p50} ms, p99 ${p99} ms, longest ${max} ms`
}
