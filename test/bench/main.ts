import { Command } from 'commander'
import { checkCommand } from './check.ts'
import { growthCommand } from './growth.ts'
import { layersCommand } from './layers.ts'
import { describeMachine } from './machine.ts'
import { pairCommand } from './pair.ts'
import { peerCommand } from './peer.ts'
import { scaleCommand } from './scale.ts'
import { wireCommand } from './wire.ts'

// The processes of a cluster are ended when this one exits.
for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)
  process.once(signal, () => process.exit(status))

const command = new Command('npm run bench --')
  .description('Measures. Each command answers one question; without one, it is pair.')
  .addCommand(pairCommand(), { isDefault: true })
  .addCommand(peerCommand())
  .addCommand(layersCommand())
  .addCommand(wireCommand())
  .addCommand(scaleCommand())
  .addCommand(growthCommand())
  .addCommand(checkCommand())
  .hook('preAction', () => {
    const { processor, cores, node } = describeMachine()
    console.log(`${processor}, ${cores} cores, Node ${node}`)
  })
for (const each of command.commands) each.allowExcessArguments(false)
await command.parseAsync()
