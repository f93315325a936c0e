import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { packageRoot } from '../../shared/root.ts'
import type { Engine } from './engine.ts'

const BUILD_LIMIT_MS = 15 * 60_000
const COMMAND_LIMIT_MS = 5 * 60_000
const CONDITION_LIMIT_MS = 120_000
const POLL_MS = 200

export const SECRETS = '/var/lib/expertmesh/secrets'
/** Services that run until they are stopped, and that answer for each other's absence. */
export const SERVICES = ['redis', 'worker1', 'worker2', 'worker3', 'gateway1', 'gateway2', 'haproxy'] as const
export type Service = (typeof SERVICES)[number]

/** What `docker inspect` tells of a container, as far as it is asked here. */
export type Container = {
  State: { Status: string; ExitCode: number; OOMKilled: boolean; Health?: { Status: string } }
  Config: { User: string; Env: string[]; Cmd: string[]; Image: string }
  HostConfig: {
    ReadonlyRootfs: boolean
    Privileged: boolean
    CapDrop: string[]
    SecurityOpt: string[]
    Memory: number
    PidsLimit: number
  }
}

export type Cluster = {
  /** The image under test. */
  image: string
  engine: Engine
  compose(...args: string[]): Promise<string>
  /** Runs a program in a service's container. */
  inside(service: Service, ...command: string[]): Promise<string>
  inspect(service: Service | 'prepare'): Promise<Container>
  /** docker kill, docker start: of one service's container, past compose. */
  kill(service: Service): Promise<void>
  start(service: Service): Promise<void>
  healthy(services?: readonly Service[]): Promise<void>
  /** http://HOST:PORT of haproxy. */
  url(): Promise<string>
  token(): Promise<string>
  close(): Promise<void>
}

/** Resolves once the condition holds; names what it waited for when it does not. */
export const until = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
  const giveUpAt = performance.now() + CONDITION_LIMIT_MS
  while (!(await holds())) {
    if (performance.now() > giveUpAt) throw new Error(`not after ${CONDITION_LIMIT_MS} ms: ${what}`)
    await delay(POLL_MS)
  }
}

/** Builds the image by docker-compose.yml and starts the cluster of the demo model in fp32, in a project of its own. */
export const openCluster = async (engine: Engine): Promise<Cluster> => {
  const project = `expertmesh-test-${process.pid}`
  const image = `${project}:latest`
  const env = {
    ...engine.build,
    COMPOSE_PROJECT_NAME: project,
    EXPERTMESH_IMAGE: image,
    REDIS_IMAGE: image,
    HAPROXY_IMAGE: image,
    PRECISION: 'fp32',
    HTTP_ADDRESS: '127.0.0.1:0',
    GRPC_ADDRESS: '127.0.0.1:0',
  }
  const [command, ...first] = engine.compose
  const call = (limitMs: number, args: readonly string[]): Promise<string> =>
    engine.run(command, [...first, '--file', join(packageRoot, 'docker-compose.yml'), ...args], { env, limitMs })
  const compose = (...args: string[]): Promise<string> => call(COMMAND_LIMIT_MS, args)
  const docker = (...args: string[]): Promise<string> => engine.run('docker', args, { limitMs: COMMAND_LIMIT_MS })

  const ids = new Map<string, string>()
  const idOf = async (service: string): Promise<string> => {
    const id = ids.get(service) ?? (await compose('ps', '--all', '--quiet', service)).trim()
    ids.set(service, id)
    return id
  }
  const inspect = async (service: string): Promise<Container> =>
    JSON.parse(await docker('inspect', await idOf(service)))[0]
  const inside = async (service: string, ...words: string[]): Promise<string> =>
    docker('exec', await idOf(service), ...words)
  const healthy = async (services: readonly Service[] = SERVICES): Promise<void> => {
    for (const service of services)
      await until(`${service} is healthy`, async () => (await inspect(service)).State.Health?.Status === 'healthy')
  }

  const cluster: Cluster = {
    image,
    engine,
    compose,
    inside,
    inspect,
    healthy,
    kill: async (service) => void (await docker('kill', await idOf(service))),
    start: async (service) => void (await docker('start', await idOf(service))),
    url: async () => `http://${(await compose('port', 'haproxy', '8080')).trim()}`,
    token: async () => (await inside('gateway1', 'cat', `${SECRETS}/token`)).trim(),
    close: async () => void (await compose('down', '--volumes', '--remove-orphans', '--rmi', 'all')),
  }
  try {
    await call(BUILD_LIMIT_MS, ['build', 'prepare'])
    await compose('up', '--detach', '--no-build')
    await healthy()
    return cluster
  } catch (error) {
    const log = await compose('logs', '--tail', '20').catch(() => '')
    await cluster.close().catch(() => {})
    throw new Error(`${(error as Error).message}\n${log}`, { cause: error })
  }
}
