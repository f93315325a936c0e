/** Every command in docker-compose.yml and deploy/k8s is one that the services understand. */
import type { Command } from 'commander'
import { expect, test } from 'vitest'
import { COMPUTE_FLAGS } from '../../../services/cli/config.ts'
import { loadFlags } from '../../../services/cli/load/options.ts'
import { gatewayCommand } from '../../../services/gateway/config.ts'
import { workerCommand } from '../../../services/worker/config.ts'
import { readFolder, readYaml } from '../../support/yaml.ts'

type Compose = { services: Record<string, { command?: string[] }> }
type Manifest = { spec: { template?: { spec: { containers: { command: string[]; args?: string[] }[] } } } }

/** Program and flags, without the shell around them and with a value for each variable. */
const wordsOf = (command: readonly string[]): string[] =>
  (command[0] === 'sh' ? command[2].split(/\s+/) : [...command])
    .filter((word) => word !== 'exec')
    .map((word) => word.replace(/\$\{\w+:-([^}]*)\}/, '$1').replace(/\$\$?\(?\w+\)?/, 'name'))

const composed = Object.values(readYaml<Compose>('docker-compose.yml').services).map(({ command = [] }) => command)
const inPods = readFolder<Manifest>('deploy', 'k8s').flatMap(({ manifest }) =>
  (manifest.spec?.template?.spec.containers ?? []).map(({ command, args = [] }) => [...command, ...args]),
)
const commands = [...composed, ...inPods].map(wordsOf)

const takes = (command: Command, flags: readonly string[]): void => {
  command
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .parse([...flags], { from: 'user' })
}

test.each([
  ['gateways', ['node', ...COMPUTE_FLAGS, 'dist/services/gateway/main.js'], gatewayCommand, 3],
  ['workers', ['node', ...COMPUTE_FLAGS, 'dist/services/worker/main.js'], () => workerCommand({}), 4],
  ['loads', ['expertmesh', 'load'], loadFlags, 1],
] as const)('%s', (_, program, commandOf, count) => {
  const starts = (words: readonly string[]): boolean => program.every((word, i) => words[i] === word)
  const flags = commands.filter(starts).map((words) => words.slice(program.length))
  expect(flags).toHaveLength(count)
  for (const own of flags) takes(commandOf(), own)
  expect(() => takes(commandOf(), [...flags[0], '--no-such-flag'])).toThrow(/unknown option/)
})
