import { writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import { whole } from '../../services/cli/flags.ts'
import { say } from './say.ts'

/** Adds the size of the random 16B-shaped model. */
export const addLayers = (command: Command): Command =>
  command.option('--layers <n>', 'layers of the random 16B-shaped model; the first is dense', whole(2), 5)

/** That, and how often whoever is measured has its turn. */
export const addRuns = (command: Command): Command =>
  addLayers(command).option('--rounds <n>', 'turns of each', whole(1), 3)

/** Adds where figures go to. */
export const addJson = (command: Command): Command =>
  command.option('--json <file>', 'write every figure to this file too')

export const writeFigures = (file: string, figures: object): void => {
  writeFileSync(file, `${JSON.stringify(figures, null, 2)}\n`)
  say(`written to ${file}`)
}
