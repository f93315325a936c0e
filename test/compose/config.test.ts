/** What compose itself makes of docker-compose.yml, by every compose that is here. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { packageRoot } from '../../shared/root.ts'
import { composeTools, installTools } from './engine.ts'

const run = promisify(execFile)

type Config = { services: Record<string, { image: string; command: string[] }> }

let tools: readonly (readonly string[])[]
beforeAll(async () => {
  await installTools()
  tools = await composeTools()
  if (tools.length === 0) console.warn('No compose is here, and none could be installed.')
})

const config = async (
  tool: readonly string[],
  flags: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Config> => {
  const [command, ...first] = tool
  const args = [...first, '--file', join(packageRoot, 'docker-compose.yml'), ...flags, 'config']
  const { stdout, stderr } = await run(command, args, { env: { ...process.env, ...env } })
  expect(stderr).toBe('')
  return parse(stdout)
}

const all = ['--profile', 'load', '--profile', 'observability']
const cluster = ['gateway1', 'gateway2', 'haproxy', 'prepare', 'redis', 'worker1', 'worker2', 'worker3']

describe.each(['docker compose', 'docker-compose'])('%s', (name) => {
  const here = (skip: (condition: boolean, note: string) => void): readonly string[] => {
    const tool = tools.find((words) => words.join(' ') === name)
    skip(tool === undefined, `${name} is not on this machine`)
    return tool!
  }

  test('reads the file without a warning, and its profiles add what they should', async ({ skip }) => {
    const tool = here(skip)
    expect(Object.keys((await config(tool, all)).services).sort()).toEqual(
      [...cluster, 'grafana', 'load', 'prometheus'].sort(),
    )
  })

  test('puts other images, models and limits in place', async ({ skip }) => {
    const tool = here(skip)
    const { services } = await config(tool, [], {
      REDIS_IMAGE: 'redis:7-bookworm',
      HAPROXY_IMAGE: 'haproxy:2.8-bookworm',
      EXPERTMESH_IMAGE: 'registry.example/expertmesh:1',
      MODEL: 'deepseek-moe-16b',
      PRECISION: 'fp32',
    })
    expect(services.redis.image).toBe('redis:7-bookworm')
    expect(services.haproxy.image).toBe('haproxy:2.8-bookworm')
    for (const name of cluster.filter((service) => !/redis|haproxy/.test(service)))
      expect(services[name].image, name).toBe('registry.example/expertmesh:1')
    expect(services.gateway1.command.join(' ')).toContain('--model /models/deepseek-moe-16b --precision fp32')
  })
})
