/** docker-compose.yml, read as text: what needs no engine to be checked. test/compose runs it. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openMetrics } from '../../../services/gateway/metrics.ts'
import { packageRoot } from '../../../shared/root.ts'
import { drainLimitMs } from '../../support/drain.ts'
import { readFolder, readYaml } from '../../support/yaml.ts'

type Service = {
  image: string
  user: string
  read_only: boolean
  cap_drop: string[]
  command?: string[]
  networks?: string[]
  volumes?: string[]
  environment?: Record<string, string>
  healthcheck?: { test: string[] }
  stop_grace_period?: string
  mem_limit?: string
  depends_on?: Record<string, { condition: string }>
}
type Compose = {
  services: Record<string, Service>
  networks: Record<string, { internal?: boolean } | null>
  volumes: Record<string, null>
}

const { services, networks, volumes } = readYaml<Compose>('docker-compose.yml')
const read = (...path: string[]): string => readFileSync(join(packageRoot, ...path), 'utf8')
const numbered = (name: string): string[] => Object.keys(services).filter((service) => service.startsWith(name))
const [gateways, workers] = [numbered('gateway'), numbered('worker')]

describe('docker-compose.yml', () => {
  test('keeps every container from root, from its own files and from taking more than its share', () => {
    for (const [name, service] of Object.entries(services)) {
      expect(service, name).toMatchObject({ user: '10001:10001', read_only: true, cap_drop: ['ALL'] })
      expect(service.mem_limit, name).toMatch(/\d+[mg]/)
    }
  })

  test('takes every image from a variable, and its own of this version', () => {
    const { version } = JSON.parse(read('package.json'))
    const images = Object.values(services).map(({ image }) => image)
    expect(images.filter((image) => !/^\$\{[A-Z]+_IMAGE:-\S+\}$/.test(image))).toEqual([])
    for (const own of ['prepare', 'redis', 'haproxy', 'load', ...gateways, ...workers])
      expect(services[own].image, own).toContain(`:-expertmesh:${version}}`)
  })

  test('gives services more time to end than they may take', () => {
    const graceMs = (name: string): number =>
      Number(/^(\d+)s$/.exec(services[name].stop_grace_period ?? '')?.[1]) * 1000
    for (const name of gateways) expect(graceMs(name)).toBeGreaterThan(drainLimitMs('gateway'))
    for (const name of workers) expect(graceMs(name)).toBeGreaterThan(drainLimitMs('worker'))
    const hardStopMs = Number(/hard-stop-after (\d+)s/.exec(read('deploy', 'haproxy.cfg'))?.[1]) * 1000
    expect(hardStopMs).toBeGreaterThan(drainLimitMs('gateway'))
    expect(graceMs('haproxy')).toBeGreaterThan(hardStopMs)
  })

  test('keeps the token out of environments and commands', () => {
    for (const [name, { environment = {}, command = [] }] of Object.entries(services)) {
      expect(
        Object.keys(environment).filter((key) => /TOKEN|SECRET|PASSWORD/.test(key)),
        name,
      ).toEqual([])
      expect(command.join(' '), name).not.toMatch(/--token[ =]/)
    }
  })

  test('publishes haproxy and Grafana, and lets Redis be seen by those alone who use it', () => {
    const published = Object.keys(services).filter((name) => 'ports' in services[name])
    expect(published).toEqual(['haproxy', 'grafana'])
    const inside = Object.keys(networks).filter((name) => networks[name]?.internal)
    expect(inside).toEqual(['mesh', 'queue'])
    const besideRedis = Object.keys(services).filter((name) => services[name].networks?.includes('queue'))
    expect(besideRedis.sort()).toEqual([...gateways, 'redis', ...workers].sort())
  })

  test('waits for what a service needs to be there, and prepares every volume before its use', () => {
    for (const [name, { depends_on = {} }] of Object.entries(services))
      for (const [needed, { condition }] of Object.entries(depends_on)) {
        expect(Object.keys(services), name).toContain(needed)
        if (condition === 'service_healthy') expect(services[needed], needed).toHaveProperty('healthcheck')
      }
    const mounted = services.prepare.volumes!.map((volume) => volume.split(':')[0])
    expect(mounted.sort()).toEqual(Object.keys(volumes).sort())
    const dockerfile = read('deploy', 'Dockerfile')
    for (const name of mounted) expect(/for name in ([^;]*);/.exec(dockerfile)?.[1].split(' ')).toContain(name)
  })

  test('runs Redis as Kubernetes does', () => {
    type Manifest = {
      metadata: { name: string }
      spec: { template?: { spec: { containers: { command: string[] }[] } } }
    }
    const redis = readFolder<Manifest>('deploy', 'k8s').find(
      ({ file, manifest }) => file === 'redis.yaml' && manifest.spec.template,
    )
    expect(services.redis.command).toEqual(redis?.manifest.spec.template?.spec.containers[0].command)
  })
})

describe('what stands beside it', () => {
  test('haproxy knows every gateway, by both ports', () => {
    const config = read('deploy', 'haproxy.cfg')
    for (const port of [8080, 9090]) {
      const servers = [...config.matchAll(new RegExp(`^  server (\\w+) (\\w+):${port}\\b`, 'gm'))]
      expect(servers.map(([, name]) => name)).toEqual(gateways)
      expect(servers.map(([, , host]) => host)).toEqual(gateways)
    }
    for (const name of gateways)
      expect(services[name].command?.join(' ')).toMatch(/--listen 0\.0\.0\.0:8080 --grpc-listen 0\.0\.0\.0:9090/)
  })

  test('Prometheus scrapes every gateway, with the token', () => {
    type Job = {
      job_name: string
      authorization?: { credentials_file: string }
      static_configs: { targets: string[] }[]
    }
    const { scrape_configs } = readYaml<{ scrape_configs: Job[] }>('deploy', 'prometheus.yml')
    const job = scrape_configs.find(({ job_name }) => job_name === 'gateway')
    expect(job?.static_configs[0].targets).toEqual(gateways.map((name) => `${name}:8080`))
    expect(services[gateways[0]].command?.join(' ')).toContain(`--token-file ${job?.authorization?.credentials_file}`)
  })

  test('the dashboard shows series that gateways count', async () => {
    const known = new Set((await openMetrics('demo').registry.getMetricsAsJSON()).map(({ name }) => name))
    type Dashboard = { panels: { title: string; datasource: { uid: string }; targets: { expr: string }[] }[] }
    const { panels } = JSON.parse(read('deploy', 'grafana', 'dashboards', 'expertmesh.json')) as Dashboard
    const sources = readYaml<{ datasources: { uid: string }[] }>(
      ...['deploy', 'grafana', 'provisioning', 'datasources', 'prometheus.yml'],
    )
    for (const { title, datasource, targets } of panels) {
      expect(
        sources.datasources.map(({ uid }) => uid),
        title,
      ).toContain(datasource.uid)
      const series = targets.flatMap(({ expr }) => expr.match(/\b(?:expertmesh|process|nodejs)_\w+/g) ?? [])
      for (const name of series) expect(known, title).toContain(name.replace(/_bucket$/, ''))
    }
    expect(panels.length).toBeGreaterThan(0)
  })
})
