/** deploy/k8s against Kubernetes' own schemas, and against itself: what one manifest names must be what another one is. */
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { Ajv, type ValidateFunction } from 'ajv'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../../../shared/root.ts'
import { drainLimitMs } from '../../support/drain.ts'
import { readFolder, readYaml } from '../../support/yaml.ts'

type Labels = Record<string, string>
type Probe = {
  httpGet?: { path: string; port: string }
  grpc?: { port: number }
  exec?: { command: string[] }
}
type Container = {
  name: string
  image: string
  command: string[]
  args?: string[]
  ports: { name: string; containerPort: number }[]
  startupProbe?: Probe
  readinessProbe: Probe
  livenessProbe: Probe
  lifecycle?: { preStop: { exec: { command: string[] } } }
  securityContext: object
  resources: { requests: Labels; limits: Labels }
  volumeMounts: { name: string; mountPath: string; readOnly?: boolean }[]
}
type PodSpec = {
  terminationGracePeriodSeconds: number
  securityContext: object
  automountServiceAccountToken: boolean
  containers: Container[]
  volumes: { name: string; secret?: { secretName: string }; persistentVolumeClaim?: { claimName: string } }[]
}
type Selector = { matchLabels?: Labels; matchExpressions?: { key: string; operator: string; values: string[] }[] }
type Peer = { podSelector?: Selector; namespaceSelector?: object }
type Rule = { from?: Peer[]; to?: Peer[]; ports?: { port: number | string }[] }
type Manifest = {
  apiVersion: string
  kind: string
  metadata: { name: string; labels: Labels; namespace?: string }
  spec: {
    replicas?: number
    selector?: Selector
    serviceName?: string
    template?: { metadata: { labels: Labels }; spec: PodSpec }
    volumeClaimTemplates?: { metadata: { name: string } }[]
    ports?: { port: number; targetPort: string }[]
    scaleTargetRef?: { apiVersion: string; kind: string; name: string }
    minReplicas?: number
    podSelector?: Selector
    ingress?: Rule[]
    egress?: Rule[]
    metrics?: { pods: { metric: { name: string } } }[]
    minAvailable?: number
    maxUnavailable?: number
  }
}

type Kustomization = { resources: string[]; images: { name: string; newTag: string }[] }

const kustomization = readYaml<Kustomization>('deploy', 'k8s', 'kustomization.yaml')
const files = readFolder<Manifest>('deploy', 'k8s').filter(({ file }) => file !== 'kustomization.yaml')
const manifests = files.map(({ manifest }) => manifest)
const ofKind = (...kinds: string[]): Manifest[] => manifests.filter(({ kind }) => kinds.includes(kind))
const workloads = ofKind('Deployment', 'StatefulSet').map(({ metadata, spec }) => {
  const { labels } = spec.template!.metadata
  const pod = spec.template!.spec
  return { name: metadata.name, spec, labels, pod, container: pod.containers[0] }
})
const named = (manifest: Manifest): string => `${manifest.kind} ${manifest.metadata.name}`

const selects = (selector: Selector, labels: Labels): boolean =>
  Object.entries(selector.matchLabels ?? {}).every(([key, value]) => labels[key] === value) &&
  (selector.matchExpressions ?? []).every(({ key, values }) => values.includes(labels[key]))
/** A Service's selector is the labels themselves. */
const selectorOf = ({ kind, spec }: Manifest): Selector =>
  kind === 'Service' ? { matchLabels: spec.selector as Labels } : (spec.selector ?? spec.podSelector ?? {})

describe('every manifest', () => {
  const { kinds, definitions } = JSON.parse(
    readFileSync(join(packageRoot, 'test', 'data', 'k8s', 'schemas.json'), 'utf8'),
  ) as { kinds: Record<string, string>; definitions: Record<string, object> }
  const ajv = new Ajv({ allErrors: true, allowUnionTypes: true })
  for (const format of ['int32', 'int64']) ajv.addFormat(format, { type: 'number', validate: Number.isInteger })
  ajv.addFormat('date-time', { validate: (text: string) => !Number.isNaN(Date.parse(text)) })
  ajv.addFormat('quantity', /^[+-]?(\d+|\d+\.\d*|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$/)
  ajv.addSchema({ $id: 'kubernetes', definitions })
  const schemaOf = ({ apiVersion, kind }: Manifest): ValidateFunction => {
    const name = kinds[`${apiVersion} ${kind}`]
    if (!name) throw new Error(`there is no schema for ${apiVersion} ${kind}`)
    return ajv.getSchema(`kubernetes#/definitions/${name}`)!
  }

  test.each(files.map(({ file, manifest }) => [`${file}: ${named(manifest)}`, manifest] as const))(
    'fits the schema of its kind: %s',
    (_, manifest) => {
      const check = schemaOf(manifest)
      check(manifest)
      expect(check.errors ?? []).toEqual([])
    },
  )

  test('would not fit with a key, a number or a probe that Kubernetes does not know', () => {
    const deployment = ofKind('Deployment')[0]
    const broken = [
      (spec: Record<string, unknown>) => ({ ...spec, replica: 2 }),
      (spec: Record<string, unknown>) => ({ ...spec, replicas: 'two' }),
      (spec: Record<string, unknown>) => ({ ...spec, template: undefined, selector: undefined }),
    ]
    for (const breakIt of broken) {
      const manifest = JSON.parse(JSON.stringify({ ...deployment, spec: breakIt(deployment.spec) }))
      expect(schemaOf(deployment)(manifest)).toBe(false)
    }
  })

  test('is listed in the kustomization, names no namespace, and has a name of its own', () => {
    expect(kustomization.resources).toEqual([...new Set(files.map(({ file }) => file))])
    expect(manifests.filter(({ metadata }) => metadata.namespace !== undefined)).toEqual([])
    expect(new Set(manifests.map(named)).size).toBe(manifests.length)
  })
})

describe('what one manifest names in another', () => {
  test('selectors find the pods of one workload, and pods carry the labels of theirs', () => {
    for (const manifest of ofKind('Service', 'PodDisruptionBudget', 'NetworkPolicy', 'Deployment', 'StatefulSet')) {
      const found = workloads.filter(({ labels }) => selects(selectorOf(manifest), labels))
      expect([named(manifest), found.length]).toEqual([named(manifest), 1])
      expect(found[0].labels).toEqual(manifest.metadata.labels)
    }
  })

  test('services lead to ports that their containers have', () => {
    for (const service of ofKind('Service')) {
      const { container } = workloads.find(({ labels }) => selects(selectorOf(service), labels))!
      for (const { port, targetPort } of service.spec.ports!)
        expect(container.ports).toContainEqual({ name: targetPort, containerPort: port })
    }
  })

  test('network policies open ports that exist, to pods that exist', () => {
    const portsOf = ({ container }: (typeof workloads)[number]): (number | string)[] =>
      container.ports.flatMap(({ name, containerPort }) => [name, containerPort])
    const check = (rules: readonly Rule[], own: (typeof workloads)[number], side: 'from' | 'to'): void => {
      for (const rule of rules) {
        const peers = (rule[side] ?? []).filter(({ namespaceSelector }) => !namespaceSelector)
        const found = peers.flatMap(({ podSelector }) =>
          workloads.filter(({ labels }) => selects(podSelector!, labels)),
        )
        if (peers.length > 0) expect(found).not.toEqual([])
        const targets = side === 'from' ? [own] : found
        for (const target of targets) for (const { port } of rule.ports ?? []) expect(portsOf(target)).toContain(port)
      }
    }
    for (const { spec } of ofKind('NetworkPolicy')) {
      const own = workloads.find(({ labels }) => selects(spec.podSelector!, labels))!
      check(spec.ingress!, own, 'from')
      check(spec.egress!, own, 'to')
    }
    expect(ofKind('NetworkPolicy')).toHaveLength(workloads.length)
  })

  test('addresses in flags are services and pods of these manifests', () => {
    const hosts = workloads.flatMap(({ container }) =>
      [...(container.args ?? []), ...container.command].flatMap((word) =>
        [...word.matchAll(/(?:=|\/\/)(?!0\.0\.0\.0)([\w$().-]+):(\d+)/g)].map(([, host, port]) => ({ host, port })),
      ),
    )
    expect(hosts).not.toEqual([])
    for (const { host, port } of hosts) {
      const [pod, name = pod] = host.split('.')
      const service = ofKind('Service').find(({ metadata }) => metadata.name === name)
      expect(
        service?.spec.ports?.map((entry) => String(entry.port)),
        host,
      ).toContain(port)
      if (pod === name) continue
      const set = ofKind('StatefulSet').find(({ spec }) => spec.serviceName === name)!
      const pods = Array.from({ length: set.spec.replicas! }, (_, i) => `${set.metadata.name}-${i}`)
      expect([...pods, '$(POD_NAME)']).toContain(pod)
    }
  })

  test('stateful sets have their service, mounts their volumes, volumes their claims', () => {
    for (const { spec, pod, container } of workloads) {
      if (spec.serviceName) expect(ofKind('Service').map(({ metadata }) => metadata.name)).toContain(spec.serviceName)
      const volumes = [...pod.volumes, ...(spec.volumeClaimTemplates ?? []).map(({ metadata }) => metadata)]
      expect(container.volumeMounts.map(({ name }) => name).sort()).toEqual(volumes.map(({ name }) => name).sort())
      for (const { persistentVolumeClaim } of pod.volumes)
        if (persistentVolumeClaim)
          expect(ofKind('PersistentVolumeClaim').map(({ metadata }) => metadata.name)).toContain(
            persistentVolumeClaim.claimName,
          )
    }
  })

  test('the autoscaler scales the gateways by a metric that they count', () => {
    const [{ spec }] = ofKind('HorizontalPodAutoscaler')
    const { kind, name } = spec.scaleTargetRef!
    const target = manifests.find((manifest) => manifest.kind === kind && manifest.metadata.name === name)
    // A number of its own would be put back at every apply.
    expect(target?.spec).not.toHaveProperty('replicas')
    expect(spec.minReplicas).toBeGreaterThan(ofKind('PodDisruptionBudget')[0].spec.minAvailable!)
    const series = readFileSync(join(packageRoot, 'services', 'gateway', 'metrics.ts'), 'utf8')
    for (const { pods } of spec.metrics!)
      expect(series).toContain(`named('${pods.metric.name.replace('expertmesh_', '')}'`)
  })
})

describe('every pod', () => {
  test('is of one image, the one of this version', () => {
    const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'))
    expect(new Set(workloads.map(({ container }) => container.image))).toEqual(new Set([`expertmesh:${version}`]))
    expect(kustomization.images).toMatchObject([{ name: 'expertmesh', newTag: version }])
  })

  test('is not root, gains no rights, writes to its volumes alone, and has requests and limits', () => {
    for (const { pod, container } of workloads) {
      expect(pod.automountServiceAccountToken).toBe(false)
      expect(pod.securityContext).toMatchObject({
        runAsNonRoot: true,
        runAsUser: 10001,
        seccompProfile: { type: 'RuntimeDefault' },
      })
      expect(container.securityContext).toEqual({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      })
      for (const share of [container.resources.requests, container.resources.limits])
        expect(Object.keys(share).sort()).toEqual(['cpu', 'memory'])
    }
  })

  test('reads its tokens from a secret that one command makes', () => {
    const text = readFileSync(join(packageRoot, 'deploy', 'k8s', 'kustomization.yaml'), 'utf8')
    for (const { name, pod, container } of workloads.filter(({ container }) => container.args)) {
      const secret = pod.volumes.find((volume) => volume.secret)!
      const { mountPath } = container.volumeMounts.find((mount) => mount.name === secret.name)!
      expect(container.args, name).toContain(`--token-file=${mountPath}/token`)
      const command = text
        .split('\n')
        .find((line) => line.includes(`create secret generic ${secret.secret!.secretName} `))
      const files = container.args!.filter((flag) => flag.includes(`${mountPath}/`)).map((flag) => basename(flag))
      for (const file of files) expect(command).toContain(`--from-literal=${file}=`)
    }
  })

  test('is probed at its own ports and at paths that need no token', () => {
    const http = readFileSync(join(packageRoot, 'services', 'gateway', 'accept', 'http.ts'), 'utf8')
    const open = [...(/const open = new Set\(\[(.*)\]\)/.exec(http)?.[1] ?? '').matchAll(/'([^']+)'/g)].map(
      ([, path]) => path,
    )
    for (const { container } of workloads) {
      const { startupProbe, readinessProbe, livenessProbe } = container
      for (const { httpGet, grpc, exec } of [startupProbe, readinessProbe, livenessProbe].flatMap(
        (probe) => probe ?? [],
      )) {
        if (httpGet) expect(open).toContain(httpGet.path)
        if (httpGet) expect(container.ports.map(({ name }) => name)).toContain(httpGet.port)
        if (grpc) expect(container.ports.map(({ containerPort }) => containerPort)).toContain(grpc.port)
        expect([httpGet, grpc, exec].filter(Boolean)).toHaveLength(1)
      }
    }
    const [gateway, worker] = ['gateway', 'worker'].map(
      (name) => workloads.find(({ container }) => container.name === name)!,
    )
    expect(gateway.container.readinessProbe.httpGet?.path).toBe('/readyz')
    expect(gateway.container.livenessProbe.httpGet?.path).toBe('/livez')
    expect(worker.container.readinessProbe).toHaveProperty('grpc')
  })

  test('has more time to end than it may take', () => {
    for (const service of ['gateway', 'worker'] as const) {
      const { pod, container } = workloads.find(({ container: { name } }) => name === service)!
      const waitMs = Number(container.lifecycle?.preStop.exec.command[1] ?? 0) * 1000
      expect(pod.terminationGracePeriodSeconds * 1000).toBeGreaterThan(waitMs + drainLimitMs(service))
    }
  })
})
