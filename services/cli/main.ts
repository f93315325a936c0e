#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { Code, MeshError } from '../../shared/errors.ts'
import { packageRoot } from '../../shared/root.ts'
import { generateCommand } from './generate.ts'
import { inspectCommand } from './inspect.ts'
import { loadCommand } from './load.ts'
import { planCommand, serviceCommand } from './service.ts'
import { upCommand } from './up.ts'

/** What shells report for a process ended by Ctrl-C. */
const EXIT_INTERRUPTED = 130

const { version, description } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'))
const program = new Command('expertmesh')
  .description(description)
  .version(version)
  // Flags after a service's name are the service's.
  .enablePositionalOptions()
  .addCommand(upCommand())
  .addCommand(serviceCommand('gateway', 'Serves one model over HTTP and gRPC, with experts on the workers it is given'))
  .addCommand(serviceCommand('worker', 'Holds and runs experts for gateways'))
  .addCommand(generateCommand())
  .addCommand(inspectCommand())
  .addCommand(loadCommand())
  .addCommand(planCommand())

try {
  await program.parseAsync()
} catch (thrown) {
  const error = MeshError.from(thrown)
  console.error(`expertmesh: ${error.message}`)
  process.exitCode = error.code === Code.CANCELLED ? EXIT_INTERRUPTED : 1
}
