import { spawn } from 'node:child_process'
import { Command } from 'commander'
import { built } from '../../shared/root.ts'
import { COMPUTE_FLAGS, computeEnv } from './config.ts'
import type { Service } from './member.ts'

const DESCRIPTIONS: Readonly<Record<Service, string>> = {
  gateway: 'Serves one model over HTTP and gRPC, with experts on the workers it is given',
  worker: 'Holds and runs experts for gateways',
}

/** `expertmesh gateway …` and `expertmesh worker …`: the service itself, with every flag (--help too) its own. */
export const serviceCommand = (service: Service): Command =>
  entryCommand(service, `services/${service}/main.ts`, DESCRIPTIONS[service])

/** `expertmesh plan …`: the gateway's placement, worked out in a process of its own. */
export const planCommand = (): Command =>
  entryCommand(
    'plan',
    'services/gateway/plan.ts',
    'Shows what a cluster would hold, how even its load would be, and what a token costs on the wire',
  )

const entryCommand = (name: string, entry: string, description: string): Command =>
  new Command(name)
    .description(description)
    .argument('[flags...]', `see expertmesh ${name} --help`)
    .helpOption(false)
    .allowUnknownOption()
    .passThroughOptions()
    .action((flags: string[]) => become(entry, flags))

/** Runs the entry of a service in this process's place: same terminal, signals passed on, its exit code is ours. */
const become = async (entry: string, flags: readonly string[]): Promise<void> => {
  const child = spawn(process.execPath, [...COMPUTE_FLAGS, built(entry), ...flags], {
    env: computeEnv(),
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    // Out of the terminal's foreground group, so that Ctrl-C reaches it once, from here.
    detached: true,
  })
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => child.kill(name))
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
}
