/** node-llama-cpp as a server of the bench: installed when it is first asked for, run in a process of its own. */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { coresAllowed } from '../../shared/machine.ts'
import { packageRoot } from '../../shared/root.ts'
import { type Answer, openLoads, type Server } from './load.ts'
import { say } from './say.ts'

const folder = join(packageRoot, 'test', 'bench', 'peer')

/** How llama.cpp is run, beside two things that always hold: as many threads as cores, and weights mapped and warm. */
export type LlamaFlags = { flash: boolean; cache: 'F16' | 'F32' }

/** @throws Error with npm's exit code, or saying that there is no prebuilt library for this machine. */
export const installLlama = async (): Promise<void> => {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new Error(
      'the comparison with llama.cpp uses its prebuilt library for Linux on x64, and this is another system',
    )
  if (existsSync(join(folder, 'node_modules', 'node-llama-cpp'))) return
  say('installing node-llama-cpp for this comparison alone: npm ci in test/bench/peer (85 MB; nothing is built)')
  const npm = process.env.npm_execpath
  const [command, args] = npm?.endsWith('.js') ? [process.execPath, [npm, 'ci']] : ['npm', ['ci']]
  const [code] = await once(spawn(command, args, { cwd: folder, stdio: ['ignore', 2, 2] }), 'exit')
  if (code !== 0) throw new Error(`npm ci in test/bench/peer failed (exit code ${code}); the reason is above`)
}

type Reply = { id: number; result: Answer; error?: string } | { ready: true }

/** Loads a GGUF file. `flags` may be changed between two loads. */
export const openLlama = async (path: string, flags: LlamaFlags): Promise<Server> => {
  const threads = coresAllowed()
  const child = fork(join(folder, 'llama.mjs'), [path, String(threads)], { stdio: ['ignore', 2, 2, 'ipc'] })
  const ask = await asker(child)
  let opened = ''
  return {
    async room(sequences, tokens) {
      const wanted = { sequences, tokens, ...flags }
      if (JSON.stringify(wanted) === opened) return
      await ask('open', wanted)
      opened = JSON.stringify(wanted)
    },
    generate: (ids, tokens) => ask('generate', { ids, tokens }),
    async close() {
      const exit = once(child, 'exit')
      child.disconnect()
      await exit
    },
  }
}

/** Questions and answers over the channel to the child, which says first that it is ready. */
const asker = async (child: ChildProcess): Promise<(kind: string, what: object) => Promise<Answer>> => {
  const waiting = new Map<number, { resolve(answer: Answer): void; reject(error: Error): void }>()
  let asked = 0
  await new Promise<void>((ready, failed) => {
    child.on('message', (reply: Reply) => {
      if ('ready' in reply) return ready()
      const { resolve, reject } = waiting.get(reply.id) ?? {}
      waiting.delete(reply.id)
      if (reply.error === undefined) resolve?.(reply.result)
      else reject?.(new Error(`llama.cpp: ${reply.error}`))
    })
    child.once('exit', (code, signal) => {
      const error = new Error(`the process of node-llama-cpp ended with ${code ?? signal}; what it said is above`)
      failed(error)
      for (const { reject } of waiting.values()) reject(error)
    })
  })
  return (kind, what) =>
    new Promise((resolve, reject) => {
      const id = asked++
      waiting.set(id, { resolve, reject })
      child.send({ id, kind, ...what })
    })
}

/** Whether flash attention is used, by load. */
export type Flash = { prefill: boolean; decode: boolean }

const TRIES = 2

/** Whether flash attention helps, each way as often as the other and its best run counting. */
export const tryFlash = async (name: string, path: string, vocabulary: number): Promise<Flash> => {
  const flags: LlamaFlags = { flash: true, cache: 'F16' }
  const server = await openLlama(path, flags)
  const loads = openLoads(server, vocabulary, 1)
  const best = { prefill: true, decode: true }
  try {
    for (const load of ['prefill', 'decode'] as const) {
      const rates = { on: 0, off: 0 }
      await loads[load]()
      for (let i = 0; i < TRIES; i++)
        for (const way of ['on', 'off'] as const) {
          flags.flash = way === 'on'
          rates[way] = Math.max(rates[way], await loads[load]())
        }
      best[load] = rates.on > rates.off
      say(`${name}, ${load}: ${rates.on.toFixed(1)} tokens/s with flash attention, ${rates.off.toFixed(1)} without`)
    }
    return best
  } finally {
    await server.close()
  }
}
