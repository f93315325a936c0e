import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { Code, MeshError } from '../../shared/errors.ts'
import { built } from '../../shared/root.ts'
import { COMPUTE_FLAGS, computeEnv } from './config.ts'

/** Time a process has to finish its work after SIGTERM. */
const GRACE_MS = 5_000
/** Lines of a process's log kept to explain its end. */
const LAST_LINES_MAX = 20

/** A gateway or worker process of this machine. It ends with this process, however this one ends. */
export type Member = {
  readonly name: string
  /** Where it listens, by the word before the address ('' where there is none); settles when it listens on `count` addresses. */
  listening(count: number): Promise<ReadonlyMap<string, string>>
  /** Resolves when the process has ended: how, and with which last words. */
  readonly ended: Promise<string>
  /** SIGTERM, and SIGKILL where that does not end it in time. */
  stop(): Promise<void>
}

export type Service = 'gateway' | 'worker'

const LISTENING = /^listening (?:(grpc) )?(\S.*)$/

/** `listening http://HOST:PORT`, `listening grpc HOST:PORT`, `listening unix:PATH` → [word, address]. */
export const parseListening = (line: string): [string, string] | null => {
  const match = LISTENING.exec(line)
  if (!match) return null
  const [, word, address] = match
  return [word ?? (address.startsWith('http') ? 'http' : ''), address]
}

/** Level of pino's records from which a person should see them, and of the one that a process ends with. */
const WARN = 40
const FATAL = 60

/** What a line of a service's log says, and whether a person at a terminal must see it. A fatal one comes back as the reason of its end. */
export const readLog = (line: string): { text: string; urgent: boolean } => {
  if (!line.startsWith('{')) return { text: line, urgent: true }
  try {
    const { level, msg } = JSON.parse(line)
    return {
      text: typeof msg === 'string' ? msg : line,
      urgent: typeof level !== 'number' || (level >= WARN && level < FATAL),
    }
  } catch {
    // Not a log record after all: show it as it is.
    return { text: line, urgent: true }
  }
}

/**
 * Starts a service with these flags. Its own process group keeps a terminal's Ctrl-C from reaching it before this process has
 * decided the order of the end; the IPC channel tells it when this process is gone.
 */
export const startMember = (
  service: Service,
  name: string,
  flags: readonly string[],
  onLog: (line: string) => void,
): Member => {
  const child = spawn(process.execPath, [...COMPUTE_FLAGS, built(`services/${service}/main.ts`), ...flags], {
    env: computeEnv(),
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    detached: true,
  })
  assert(child.stdout && child.stderr)
  const addresses = new Map<string, string>()
  const waiting: (() => void)[] = []
  const lastLines: string[] = []
  createInterface({ input: child.stdout }).on('line', (line) => {
    const found = parseListening(line)
    if (found) addresses.set(...found)
    for (const check of waiting) check()
  })
  createInterface({ input: child.stderr }).on('line', (line) => {
    if (lastLines.push(line) > LAST_LINES_MAX) lastLines.shift()
    onLog(line)
  })
  const ended = new Promise<string>((resolve) => {
    // 'close' comes after the last line of the log, 'error' where the process never started.
    child.once('close', (code, signal) =>
      resolve(`ended ${signal ? `by ${signal}` : `with exit code ${code}`}${lastWords(lastLines)}`),
    )
    child.once('error', (error) => resolve(`could not be started: ${error.message}`))
  })
  const killAtExit = (): void => void child.kill('SIGKILL')
  process.once('exit', killAtExit)
  void ended.then(() => process.off('exit', killAtExit))

  return {
    name,
    ended,
    listening: (count) =>
      new Promise((resolve, reject) => {
        const check = (): void => {
          if (addresses.size >= count) resolve(addresses)
        }
        waiting.push(check)
        check()
        void ended.then((how) => reject(new MeshError(Code.UNAVAILABLE, `${name} ${how}`)))
      }),
    async stop() {
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), GRACE_MS)
      await ended
      clearTimeout(timer)
    },
  }
}

const lastWords = (lines: readonly string[]): string => {
  const words = lines
    .map((line) => readLog(line).text.trim())
    .filter(Boolean)
    .at(-1)
  return words ? `: ${words}` : ''
}
