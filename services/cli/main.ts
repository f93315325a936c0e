#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { Code, MeshError } from '../../shared/errors.ts'
import { packageRoot } from '../../shared/root.ts'

/** What shells report for a process ended by Ctrl-C. */
const EXIT_INTERRUPTED = 130

/** Each in modules of its own, which only who asks for it need wait for. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  up: async () => (await import('./up.ts')).upCommand(),
  gateway: async () => (await import('./service.ts')).serviceCommand('gateway'),
  worker: async () => (await import('./service.ts')).serviceCommand('worker'),
  generate: async () => (await import('./generate.ts')).generateCommand(),
  inspect: async () => (await import('./inspect.ts')).inspectCommand(),
  load: async () => (await import('./load.ts')).loadCommand(),
  plan: async () => (await import('./service.ts')).planCommand(),
}

const { version, description } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'))
const program = new Command('expertmesh')
  .description(description)
  .version(version)
  // Flags after a service's name are the service's.
  .enablePositionalOptions()
const [name] = process.argv.slice(2)
const open = Object.hasOwn(COMMANDS, name) ? [COMMANDS[name]] : Object.values(COMMANDS)
for (const command of await Promise.all(open.map((each) => each()))) program.addCommand(command)

try {
  await program.parseAsync()
} catch (thrown) {
  const error = MeshError.from(thrown)
  console.error(`expertmesh: ${error.message}`)
  process.exitCode = error.code === Code.CANCELLED ? EXIT_INTERRUPTED : 1
}
