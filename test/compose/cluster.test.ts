/** The cluster of docker-compose.yml, built and run by a real engine. Its tests follow one another: the later ones kill services. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { credentials, makeGenericClientConstructor } from '@grpc/grpc-js'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { packageRoot } from '../../shared/root.ts'
import { INFERENCE_SERVICE, loadProto, serviceOf, tokenMetadata } from '../../shared/rpc.ts'
import { type Cluster, openCluster, SECRETS, SERVICES, type Service, until } from './cluster.ts'
import { openEngine } from './engine.ts'

const cases = JSON.parse(readFileSync(join(packageRoot, 'models', 'demo', 'expected.json'), 'utf8')).cases as {
  prompt: string
  greedy: number[]
  text: string
}[]

let engine: Awaited<ReturnType<typeof openEngine>>
let cluster: Cluster

beforeAll(async () => {
  engine = await openEngine()
  if (typeof engine === 'string') console.warn(`No docker engine can run here: ${engine}`)
  else cluster = await openCluster(engine)
})
afterAll(async () => {
  try {
    await cluster?.close()
  } finally {
    if (typeof engine !== 'string') await engine?.close()
  }
})
beforeEach(({ skip }) => {
  if (typeof engine === 'string') skip(`no docker engine can run here: ${engine}`)
})

type Completion = { text: string; token_ids: number[] }
const complete = async (base: string, token: string, prompt: string, maxTokens: number): Promise<Completion> => {
  const response = await fetch(`${base}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
    body: JSON.stringify({
      ...{ model: 'demo', prompt, max_tokens: maxTokens },
      ...{ temperature: 0, ignore_eos: true, return_token_ids: true },
    }),
  })
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`)
  return ((await response.json()) as { choices: Completion[] }).choices[0]
}

describe('a cluster as docker compose starts it', () => {
  test('answers through haproxy as transformers does, from both gateways', async () => {
    const [url, token] = [await cluster.url(), await cluster.token()]
    const answers = await Promise.all(cases.map(({ prompt, greedy }) => complete(url, token, prompt, greedy.length)))
    expect(answers.map((answer) => answer.token_ids)).toEqual(cases.map(({ greedy }) => greedy))
    expect(answers.map((answer) => answer.text)).toEqual(cases.map(({ text }) => text))
    const served = await sessions('total')
    expect(served.gateway1).toBeGreaterThan(0)
    expect(served.gateway2).toBeGreaterThan(0)
  })

  test('answers gRPC through haproxy', async () => {
    const address = (await cluster.compose('port', 'haproxy', '9090')).trim()
    const Client = makeGenericClientConstructor(serviceOf(loadProto('inference'), INFERENCE_SERVICE), 'Inference')
    const client = new Client(address, credentials.createInsecure())
    const metadata = tokenMetadata(await cluster.token())
    const { models } = await new Promise<{ models: { id: string }[] }>((resolve, reject) => {
      client.Models({}, metadata, (error: Error | null, reply: { models: { id: string }[] }) =>
        error ? reject(error) : resolve(reply),
      )
    }).finally(() => client.close())
    expect(models.map(({ id }) => id)).toEqual(['demo'])
  })

  test('asks for the token, which is in no image, environment or command', async () => {
    const [url, token] = [await cluster.url(), await cluster.token()]
    expect(token).toMatch(/^[0-9a-f]{64}$/)
    for (const headers of [{}, { authorization: 'Bearer 0123456789abcdef' }])
      expect((await fetch(`${url}/v1/models`, { headers })).status).toBe(401)
    const told = await Promise.all([
      ...SERVICES.map(async (service) => JSON.stringify(await cluster.inspect(service))),
      cluster.engine.run('docker', ['history', '--no-trunc', cluster.image]),
      cluster.compose('logs'),
    ])
    for (const text of told) expect(text).not.toContain(token)
    const mode = await cluster.inside('gateway1', 'stat', '-c', '%a %u', `${SECRETS}/token`)
    expect(mode.trim()).toBe('400 10001')
  })

  test('runs every container without root, without rights to gain, and within limits', async () => {
    for (const service of SERVICES) {
      const { Config, HostConfig } = await cluster.inspect(service)
      expect(HostConfig, service).toMatchObject({ ReadonlyRootfs: true, Privileged: false, CapDrop: ['ALL'] })
      expect(HostConfig.SecurityOpt, service).toContain('no-new-privileges:true')
      expect(HostConfig.Memory, service).toBeGreaterThan(0)
      expect(HostConfig.PidsLimit, service).toBeGreaterThan(0)
      expect(Config.User, service).toBe('10001:10001')
      expect((await cluster.inside(service, 'id', '-u')).trim(), service).toBe('10001')
      await expect(cluster.inside(service, 'touch', '/app/written'), service).rejects.toThrow(/[Rr]ead-only/)
    }
  })

  test('runs workers and gateways that see the limits of their containers', async () => {
    const print =
      "import('/app/dist/shared/machine.js').then(({ coresAllowed, memoryAllowedBytes }) => console.log(coresAllowed(), memoryAllowedBytes()))"
    for (const service of ['worker1', 'gateway1'] as const) {
      const { HostConfig } = await cluster.inspect(service)
      expect((await cluster.inside(service, 'node', '-e', print)).trim()).toBe(`1 ${HostConfig.Memory}`)
    }
  })

  test('keeps its queue in a Redis that syncs every write', async () => {
    const setting = async (name: string): Promise<string> =>
      (await cluster.inside('redis', 'redis-cli', 'config', 'get', name)).trim().split('\n')[1]
    expect(await setting('appendonly')).toBe('yes')
    expect(await setting('appendfsync')).toBe('always')
    expect(await setting('maxmemory-policy')).toBe('noeviction')
  })
})

/** Streams at each gateway, as haproxy counts them: under way, or all there ever were. */
const sessions = async (which: 'current' | 'total'): Promise<Record<string, number>> => {
  const print = "fetch('http://127.0.0.1:8404/metrics').then((r) => r.text()).then(console.log)"
  const name = which === 'current' ? 'current_sessions' : 'sessions_total'
  const line = new RegExp(`^haproxy_server_${name}\\{proxy="gateways",server="(\\w+)"\\} (\\d+)`, 'gm')
  const found = (await cluster.inside('haproxy', 'node', '-e', print)).matchAll(line)
  return Object.fromEntries([...found].map(([, server, count]) => [server, Number(count)]))
}

describe('a cluster under load', () => {
  const CONCURRENCY = 6
  /** Long enough that a killed service is back, and serves, before the load ends. */
  const DURATION_S = 45

  const load = (): Promise<string> =>
    cluster.compose(
      ...['--profile', 'load', 'run', '--rm', '-T', 'load', 'expertmesh', 'load'],
      ...['--url', 'http://haproxy:8080', '--token-file', `${SECRETS}/token`, '--resume', '--check'],
      ...['--concurrency', String(CONCURRENCY), '--duration', String(DURATION_S), '--distinct', '8'],
      ...['--input-len', '8-64', '--output-len', '32-96', '--timeout', '60'],
    )

  test.each<[string, Service]>([
    ['a worker', 'worker2'],
    ['a gateway', 'gateway1'],
    ['Redis', 'redis'],
  ])('loses no request when %s is killed and comes back', async (_, service) => {
    await cluster.healthy()
    const loaded = load()
    // Looked at below; must not count as unhandled until then.
    loaded.catch(() => {})
    await until('streams are under way at both gateways', async () => {
      const { gateway1, gateway2 } = await Promise.race([
        sessions('current'),
        loaded.then(() => Promise.reject(new Error('the load ended before anything was killed'))),
      ])
      return gateway1 > 1 && gateway2 > 1
    })
    await cluster.kill(service)
    expect((await cluster.inspect(service)).State.Status).toBe('exited')
    await cluster.start(service)
    await cluster.healthy([service])
    const report = await loaded
    console.info(`${service} was killed and came back:\n${report}`)
    expect(report).toMatch(/Failed requests:\s+0\n/)
    expect(Number(/Successful requests:\s+(\d+)/.exec(report)?.[1])).toBeGreaterThan(CONCURRENCY)
    await cluster.healthy()
  })
})

describe('a cluster that is stopped and started again', () => {
  const SHARDS = '/var/lib/expertmesh/cache/shards'
  /** Tokens: more than are generated before the stop, and few enough to be there before the grace ends. */
  const LONG_ANSWER = 200

  test('answers what it has accepted, ends every process, and finds its token and weights again', async () => {
    const shards = async (): Promise<string[]> =>
      (await cluster.inside('worker1', 'find', SHARDS, '-name', '*.bin', '-printf', '%p %T@\n')).trim().split('\n')
    const [{ prompt, greedy }] = cases
    const [url, token, converted] = [await cluster.url(), await cluster.token(), await shards()]
    const last = complete(url, token, prompt, LONG_ANSWER)
    await until('the last request is under way', async () => {
      const { gateway1, gateway2 } = await sessions('current')
      return gateway1 + gateway2 > 0
    })
    const [answer] = await Promise.all([last, cluster.compose('stop')])
    expect(answer.token_ids).toHaveLength(LONG_ANSWER)
    expect(answer.token_ids.slice(0, greedy.length)).toEqual(greedy)
    for (const service of SERVICES) {
      const { State } = await cluster.inspect(service)
      expect([service, State.Status, State.ExitCode, State.OOMKilled]).toEqual([service, 'exited', 0, false])
    }
    await cluster.compose('up', '--detach', '--no-build')
    await cluster.healthy()
    expect(await cluster.token()).toBe(token)
    expect(await shards()).toEqual(expect.arrayContaining(converted))
    const again = await complete(await cluster.url(), await cluster.token(), prompt, greedy.length)
    expect(again.token_ids).toEqual(greedy)
  })
})
