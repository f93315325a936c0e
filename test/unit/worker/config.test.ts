import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { parseWorkerConfig, workerCommand } from '../../../services/worker/config.ts'
import { Code } from '../../../shared/errors.ts'

const folder = mkdtempSync(join(tmpdir(), 'expertmesh-config-'))
afterAll(() => rmSync(folder, { recursive: true }))

const tokenFile = (text: string): string => {
  const file = join(folder, `token-${text.length}`)
  writeFileSync(file, text)
  return file
}
const GOOD_TOKEN = '0123456789abcdef'

describe("a worker's flags", () => {
  it('stay on this machine unless told otherwise', () => {
    const config = parseWorkerConfig([], {})
    expect(config).toMatchObject({ listen: '127.0.0.1:7070', device: 'cpu', token: null, exposed: false })
    expect(Object.isFrozen(config)).toBe(true)
  })

  it('come before the environment, and the environment before the defaults', () => {
    const env = { EXPERTMESH_MODELS: '/m', EXPERTMESH_CACHE: '/c' }
    expect(parseWorkerConfig([], {}).modelFolders).toEqual(['models'])
    expect(parseWorkerConfig([], env)).toMatchObject({ modelFolders: ['/m'], cacheDir: '/c' })
    const flags = ['--models', 'a', '--models', 'b', '--cache', 'd']
    expect(parseWorkerConfig(flags, env)).toMatchObject({ modelFolders: ['a', 'b'], cacheDir: 'd' })
  })

  it('share the threads out among the compute threads', () => {
    const config = parseWorkerConfig(['--threads', '7', '--compute-threads', '3'], {})
    expect(config).toMatchObject({ computeThreads: 3, threadsPerLane: 2 })
    const shared = ([threads, device = 'cpu']: string[]): number[] => {
      const { computeThreads, threadsPerLane } = parseWorkerConfig(['--threads', threads, '--device', device], {})
      return [computeThreads, threadsPerLane]
    }
    expect([['1'], ['2'], ['3'], ['4'], ['16'], ['16', 'webgpu']].map(shared)).toEqual([
      ...[
        [1, 1],
        [2, 1],
        [3, 1],
        [2, 2],
        [8, 2],
      ],
      [1, 16],
    ])
    expect(() => parseWorkerConfig(['--threads', '2', '--compute-threads', '3'], {})).toThrow(
      /--threads of at least as many/,
    )
  })

  it('refuse threads that WebGPU would not survive', () => {
    const flags = ['--threads', '2', '--compute-threads', '2', '--device']
    expect(() => parseWorkerConfig([...flags, 'webgpu'], {})).toThrow(/one thread of a process.*start more workers/)
    expect(parseWorkerConfig([...flags, 'cpu'], {}).computeThreads).toBe(2)
  })

  it.each(['127.0.0.1:0', 'localhost:7070', '[::1]:7070', 'unix:/tmp/a.sock', '127.3.2.1:65535'])(
    'let %s need no token',
    (listen) => {
      expect(parseWorkerConfig(['--listen', listen], {}).exposed).toBe(false)
    },
  )

  it.each(['0.0.0.0:7070', '[::]:7070', '10.0.0.2:0', 'worker.example:7070', '127.0.0.1.example:80'])(
    'refuse %s without a token, unless insisted upon',
    (listen) => {
      const refused = expect.objectContaining({ code: Code.INVALID_ARGUMENT, param: 'listen' })
      expect(() => parseWorkerConfig(['--listen', listen], {})).toThrow(refused)
      expect(parseWorkerConfig(['--listen', listen, '--insecure'], {}).exposed).toBe(true)
      const config = parseWorkerConfig(['--listen', listen, '--token-file', tokenFile(GOOD_TOKEN)], {})
      expect(config).toMatchObject({ token: GOOD_TOKEN, exposed: false })
    },
  )

  it.each(['7070', 'host', 'host:', 'host:65536', 'a b:1', 'unix:', 'http://host:1'])(
    'call "%s" no address',
    (listen) => {
      expect(() => parseWorkerConfig(['--listen', listen, '--insecure'], {})).toThrow(/neither HOST:PORT nor unix:PATH/)
    },
  )

  it.each([GOOD_TOKEN.slice(1), '', 'two words and more of them', 'ümlaut-ümlaut-ümlaut'])(
    'take no token like "%s"',
    (token) => {
      expect(() => parseWorkerConfig(['--token-file', tokenFile(token)], {})).toThrow(/holds no usable token/)
    },
  )

  it('name a token file that is not there', () => {
    expect(() => parseWorkerConfig(['--token-file', join(folder, 'none')], {})).toThrow(/none cannot be read/)
  })

  it('explain themselves', () => {
    const help = workerCommand({}).helpInformation()
    for (const flag of ['--listen', '--models', '--token-file', '--memory-mib']) expect(help).toContain(flag)
  })
})
