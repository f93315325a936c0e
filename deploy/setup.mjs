/**
 * What `npm start`, `npm test` and `npm run bench` run: installs and builds what is missing, then does what was asked.
 * Plain JavaScript without dependencies, because it runs before there are any. It talks on stderr; stdout is for results.
 */
import { spawn } from 'node:child_process'
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { pathToFileURL } from 'node:url'

const NODE_MIN = [20, 19]
const SWIFTSHADER = '/usr/lib/chromium/vk_swiftshader_icd.json'
const REDIS = ['redis-server', 'valkey-server']
const APT_LIMIT_MS = 10 * 60_000
const PARENT_POLL_MS = 500
const EXIT_INTERRUPTED = 130

const root = join(import.meta.dirname ?? '.', '..')
const at = (...path) => join(root, ...path)
const say = (text) => console.error(`set-up: ${text}`)
const fail = (text) => {
  say(text)
  process.exit(1)
}

/** Runs a command to its end; its output goes to stderr unless `stdout` says otherwise. Returns its exit code. */
const run = (command, args, { stdout = 2, limitMs = 0, env = {} } = {}) =>
  new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      stdio: ['inherit', stdout, 2],
      timeout: limitMs,
      env: { ...process.env, ...env },
    })
    const pass = (name) => child.kill(name)
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, pass)
    const end = (code) => {
      for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.off(name, pass)
      resolve(code)
    }
    child.once('error', (error) => {
      say(`${command} cannot be run: ${error.message}`)
      end(1)
    })
    child.once('exit', (code, signal) => {
      if (signal) say(`${command} was ended by ${signal}`)
      end(code ?? EXIT_INTERRUPTED)
    })
  })

/** node_modules holds exactly the versions that package-lock.json names; platforms' optional packages may be absent. */
const isInstalled = () => {
  const record = at('node_modules', '.package-lock.json')
  if (!existsSync(record)) return false
  const read = (path) => JSON.parse(readFileSync(path, 'utf8')).packages
  const present = read(record)
  return Object.entries(read(at('package-lock.json'))).every(
    ([path, { version, optional }]) =>
      path === '' || (present[path] ? present[path].version === version : optional === true),
  )
}

const install = async () => {
  say('installing packages with npm ci (about 300 MB; a minute or two)')
  // Under npm the running npm is used, whatever is on the PATH.
  const npm = process.env.npm_execpath
  const [command, args] = npm?.endsWith('.js') ? [process.execPath, [npm, 'ci']] : ['npm', ['ci']]
  // .npmrc turns install scripts off; where somebody's environment turns them on again, this keeps the CUDA download away.
  const code = await run(command, args, { env: { ONNXRUNTIME_NODE_INSTALL: 'skip' } })
  if (code !== 0)
    fail(
      `npm ci failed (exit code ${code}); the reason is above. If the registry was out of reach, check network and proxy (npm config get registry) and run this again.`,
    )
  if (process.platform === 'linux' && process.arch === 'x64')
    say(
      'installed for CPU and WebGPU. For `worker --device cuda` (NVIDIA, CUDA 12) add its libraries, about 300 MB from nuget.org: ONNXRUNTIME_NODE_INSTALL=cuda12 node node_modules/onnxruntime-node/script/install.js',
    )
}

/** The newest change below a path, ms. */
const changed = (path) =>
  statSync(path).isDirectory()
    ? Math.max(statSync(path).mtimeMs, ...readdirSync(path).map((name) => changed(join(path, name))))
    : statSync(path).mtimeMs

const STAMP = ['dist', '.built']
const isBuilt = () =>
  existsSync(at(...STAMP)) &&
  ['services', 'shared', 'tsconfig.json', 'package-lock.json'].every(
    (path) => changed(at(path)) <= statSync(at(...STAMP)).mtimeMs,
  )

const build = async (project = 'tsconfig.json') => {
  const begun = new Date()
  const code = await run(process.execPath, [at('node_modules', 'typescript', 'bin', 'tsc'), '-p', at(project)])
  if (code !== 0) fail(`the build failed (exit code ${code}); what tsc says is above.`)
  chmodSync(at('dist', 'services', 'cli', 'main.js'), 0o755)
  // Dated before the build began, so that a source saved meanwhile is built next time.
  writeFileSync(at(...STAMP), '')
  utimesSync(at(...STAMP), begun, begun)
}

const onPath = (name) => (process.env.PATH ?? '').split(delimiter).some((folder) => existsSync(join(folder, name)))

/** What some tests run on, from Debian's packages. Without it they are skipped, so nothing here may fail. */
const SYSTEM = [
  {
    present: () => existsSync(SWIFTSHADER),
    name: 'chromium',
    reason: 'for its SwiftShader, which the WebGPU tests run on (apt-get; a few minutes)',
    without: 'the WebGPU tests',
  },
  {
    present: () => REDIS.some(onPath),
    name: 'redis-server',
    reason: 'which the tests of the shared queue run on (apt-get)',
    without: 'the tests of the shared queue',
  },
]

const installSystem = async () => {
  const missing = SYSTEM.filter(({ present }) => !present())
  if (missing.length === 0 || process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) return
  const apt = (...args) => run('apt-get', args, { limitMs: APT_LIMIT_MS, env: { DEBIAN_FRONTEND: 'noninteractive' } })
  await apt('-q', 'update')
  for (const { present, name, reason, without } of missing) {
    say(`installing ${name} ${reason}`)
    await apt('-q', '-y', '--no-install-recommends', 'install', name)
    if (!present()) say(`it could not be installed (see above): ${without} will be skipped.`)
  }
}

/** The command line runs inside this process: signals reach it directly and there is one process less to outlive. */
const start = async (args) => {
  endWithNpm()
  const main = at('dist', 'services', 'cli', 'main.js')
  process.argv = [process.execPath, main, 'up', '--model', at('models', 'demo'), '--workers', '2', '--prove', ...args]
  await import(pathToFileURL(main).href)
}

/** npm passes signals on, except the one it cannot catch: where npm is gone, nobody is left to end this. */
const endWithNpm = () => {
  if (!process.env.npm_lifecycle_event) return
  const parent = process.ppid
  setInterval(() => process.ppid === parent || process.kill(process.pid, 'SIGTERM'), PARENT_POLL_MS).unref()
}

const test = async (args) => {
  await installSystem()
  const vitest = at('node_modules', 'vitest', 'vitest.mjs')
  process.exitCode = await run(process.execPath, [vitest, 'run', ...args], { stdout: 'inherit' })
}

const bench = async (args) => {
  await build(join('test', 'bench', 'tsconfig.json'))
  // Some run the gateway's engine in their own process, which gets the flag that engines are started with.
  const entry = ['--no-incremental-marking', at('dist', 'test', 'bench', 'main.js')]
  process.exitCode = await run(process.execPath, [...entry, ...args], {
    stdout: 'inherit',
  })
}

const commands = { start, test, bench }
const [command, ...args] = process.argv.slice(2)
const [major, minor] = process.versions.node.split('.').map(Number)
if (major < NODE_MIN[0] || (major === NODE_MIN[0] && minor < NODE_MIN[1]))
  fail(`Node ${process.versions.node} is too old: install Node ${NODE_MIN.join('.')} or later from https://nodejs.org.`)
if (!Object.hasOwn(commands, command ?? '')) fail(`say what to do: ${Object.keys(commands).join(', ')}.`)
if (!isInstalled()) await install()
if (!isBuilt()) {
  say('building')
  await build()
}
await commands[command](args)
