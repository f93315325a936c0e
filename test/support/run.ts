import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { packageRoot } from '../../shared/root.ts'

export type Run = { code: number | null; out: string; err: string }

/** Starts `expertmesh` with these arguments. Needs `npm run build`. */
export const startCommand = (...args: string[]): { process: ChildProcess; ended: Promise<Run> } => {
  const main = join(packageRoot, 'dist', 'services', 'cli', 'main.js')
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const kill = (): void => void child.kill('SIGKILL')
  process.once('exit', kill)
  const ended = Promise.all([text(child.stdout!), text(child.stderr!), once(child, 'close')]).then(
    ([out, err, [code]]) => {
      process.off('exit', kill)
      return { code: code as number | null, out, err }
    },
  )
  return { process: child, ended }
}
