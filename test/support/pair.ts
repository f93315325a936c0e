import { once } from 'node:events'
import { expect } from 'vitest'
import { demo } from './cluster.ts'
import { startRedis, type TestRedis } from './redis.ts'
import { type ServiceProcess, startGateway } from './service.ts'

/** Gateways with one model, the demo's unless said otherwise, on one Redis, the experts in each of them. */
export type Pair = {
  redis: TestRedis
  gateways: ServiceProcess[]
  urls(): string[]
  /** SIGKILL, and the end of the process. */
  kill(index: number): Promise<void>
  /** In its place. */
  start(index: number): Promise<void>
  /** Nothing waits, runs or is left behind in Redis but what can still be read. */
  settled(): Promise<void>
  stop(): Promise<void>
}

export const startPair = async (
  room: number,
  count = 2,
  { model = demo, gatewayFlags = [] }: { model?: string; gatewayFlags?: readonly string[] } = {},
): Promise<Pair> => {
  const redis = await startRedis()
  const flags = [
    ...['--model', model, '--threads', '1', '--max-sequences', String(room), '--redis', redis.address],
    ...gatewayFlags,
  ]
  const gateways = await Promise.all(Array.from({ length: count }, () => startGateway(flags)))

  /** Jobs and waiting sequences by where they are. */
  const left = async (): Promise<Record<string, number>> => {
    const counts: Record<string, number> = {}
    for (const key of await redis.client.keys('expertmesh:*')) {
      if (/:(active|wait)$/.test(key)) counts[key] = await redis.client.llen(key)
      if (/:prioritized$/.test(key)) counts[key] = await redis.client.zcard(key)
      if (/:waiting:\d$/.test(key)) counts[key] = await redis.client.hlen(key)
    }
    return Object.fromEntries(Object.entries(counts).filter(([, number]) => number > 0))
  }
  return {
    redis,
    gateways,
    urls: () => gateways.map(({ address }) => address),
    async kill(index) {
      const { process: child } = gateways[index]
      const exit = once(child, 'exit')
      child.kill('SIGKILL')
      await exit
    },
    async start(index) {
      gateways[index] = await startGateway(flags)
    },
    settled: () => expect.poll(left, { timeout: 20_000 }).toEqual({}),
    async stop() {
      for (const { process: child } of gateways) child.kill('SIGKILL')
      await redis.close()
    },
  }
}
