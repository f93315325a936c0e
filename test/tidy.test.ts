/** The rules of the house as a test: who may import whom, where things live, how long they may be. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Node, SyntaxKind } from 'typescript/unstable/ast'
import { API } from 'typescript/unstable/sync'
import { afterAll, expect, test } from 'vitest'

const FUNCTION_LINES_MAX = 70
const FILE_LINES_MAX = 300
const BANNED =
  /^(utils?|helpers?|common|misc|managers?|factor(y|ies)|base|abstract|impl|wrapper|interfaces|types|index)$/
const FUNCTIONS = new Set([
  SyntaxKind.FunctionDeclaration,
  SyntaxKind.FunctionExpression,
  SyntaxKind.ArrowFunction,
  SyntaxKind.MethodDeclaration,
  SyntaxKind.Constructor,
])
/** The only files that may import a library: everything else goes through them. */
const DOORS: Record<string, string> = {
  bullmq: 'services/gateway/bull.ts',
  ioredis: 'shared/redis.ts',
  'onnxruntime-node': 'shared/model/session.ts',
}
const STAGES = ['accept', 'batch', 'forward', 'stream', 'placement']

type Import = { from: string; to: string; typeOnly: boolean }
type Source = { path: string; text: string; nodes: readonly Node[]; imports: readonly Import[] }

const root = join(import.meta.dirname, '..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const list = (path: string, ending: RegExp): string[] => {
  if (/(^|\/)(node_modules|dist|gen|coverage|\.git)$/.test(path)) return []
  if (!statSync(join(root, path)).isDirectory()) return ending.test(path) ? [path] : []
  return readdirSync(join(root, path)).flatMap((name) => list(join(path, name), ending))
}

const api = new API({ cwd: root })
afterAll(() => api.close())
const [project] = api.updateSnapshot({ openProjects: [join(root, 'test', 'tsconfig.json')] }).getProjects()

const descend = (node: Node): Node[] => {
  const nodes = [node]
  node.forEachChild((child) => void nodes.push(...descend(child)))
  return nodes
}
type ImportNode = {
  moduleSpecifier?: { text: string }
  /** Of import('…'), which is a call. */
  expression?: { kind: SyntaxKind }
  arguments?: readonly { text: string }[]
  isTypeOnly?: boolean
  importClause?: { phaseModifier?: SyntaxKind }
}
const importsOf = (path: string, nodes: readonly Node[]): Import[] =>
  nodes.flatMap((node) => {
    const { moduleSpecifier, expression, arguments: given, isTypeOnly, importClause } = node as ImportNode
    const name = moduleSpecifier?.text ?? (expression?.kind === SyntaxKind.ImportKeyword ? given?.[0].text : undefined)
    if (name === undefined) return []
    const to = name.startsWith('.') ? join(dirname(path), name) : name
    return [{ from: path, to, typeOnly: isTypeOnly || importClause?.phaseModifier === SyntaxKind.TypeKeyword }]
  })
const sources = ['services', 'shared', 'test']
  .flatMap((dir) => list(dir, /\.ts$/))
  .map((path): Source => {
    const file = project.program.getSourceFile(join(root, path))
    if (!file) throw new Error(`test/tsconfig.json does not include ${path}`)
    const nodes = descend(file)
    return { path, text: file.text, nodes, imports: importsOf(path, nodes) }
  })
const product = sources.filter(({ path }) => !path.startsWith('test/'))
const imports = sources.flatMap((source) => source.imports)
const named = (wrong: readonly Import[]): string[] => wrong.map(({ from, to }) => `${from} → ${to}`)

const lines = (text: string): number => text.trimEnd().split('\n').length
/** `path:line` of every node that breaks a rule. */
const offenders = (of: readonly Source[], breaks: (node: Node, path: string) => boolean): string[] =>
  of.flatMap(({ path, text, nodes }) =>
    nodes.filter((node) => breaks(node, path)).map((node) => `${path}:${lines(`${text.slice(0, node.getStart())}.`)}`),
  )

const service = (path: string): string | undefined => /^services\/([^/]+)\//.exec(path)?.[1]
const stage = (path: string): string | undefined => STAGES.find((name) => path.startsWith(`services/gateway/${name}/`))

test('services meet in proto, shared knows no service, and nothing imports test', () => {
  const wrong = imports.filter(({ from, to }) => {
    if (from.startsWith('test/')) return false
    return to.startsWith('test/') || (service(to) !== undefined && service(to) !== service(from))
  })
  expect(named(wrong)).toEqual([])
})

test('stages take one another’s types only, and never what joins them', () => {
  const joins = /^services\/gateway\/(main|engine|thread)\.ts$/
  const wrong = imports.filter(({ from, to, typeOnly }) => {
    if (typeOnly || !stage(from)) return false
    return joins.test(to) || (stage(to) !== undefined && stage(to) !== stage(from))
  })
  expect(named(wrong)).toEqual([])
})

test('each library has one door', () => {
  const wrong = imports.filter(({ from, to }) => !from.startsWith('test/') && to in DOORS && DOORS[to] !== from)
  expect(named(wrong)).toEqual([])
})

test('no imports run in a circle', () => {
  const circles: string[] = []
  const cleared = new Set<string>()
  const visit = (path: string, trail: readonly string[]): void => {
    if (trail.includes(path)) circles.push([...trail.slice(trail.indexOf(path)), path].join(' → '))
    if (trail.includes(path) || cleared.has(path)) return
    const next = sources.find((source) => source.path === path)?.imports ?? []
    for (const { to, typeOnly } of next) if (!typeOnly) visit(to, [...trail, path])
    cleared.add(path)
  }
  for (const { path } of product) visit(path, [])
  expect(circles).toEqual([])
})

test('every file is reached from a main.ts, by import or as the entry of a thread or process', () => {
  const reached = new Set<string>()
  const visit = (path: string): void => {
    const source = product.find((candidate) => candidate.path === path)
    if (!source || reached.has(path)) return
    reached.add(path)
    for (const { to } of source.imports) visit(to)
    for (const node of source.nodes)
      if (node.kind === SyntaxKind.StringLiteral) visit((node as unknown as { text: string }).text)
  }
  for (const { path } of product) if (/^services\/[^/]+\/main\.ts$/.test(path)) visit(path)
  expect(product.map(({ path }) => path).filter((path) => !reached.has(path))).toEqual([])
})

test(`a function fits on a screen: ${FUNCTION_LINES_MAX} lines`, () => {
  const long = offenders(product, (node) => FUNCTIONS.has(node.kind) && lines(node.getText()) > FUNCTION_LINES_MAX)
  expect(long).toEqual([])
})

test(`a file has at most ${FILE_LINES_MAX} lines`, () => {
  expect(sources.filter(({ text }) => lines(text) > FILE_LINES_MAX).map(({ path }) => path)).toEqual([])
})

test('paths say what things do', () => {
  const paths = [...sources.map(({ path }) => path), ...list('deploy', /./)]
  const words = (path: string): string[] => path.toLowerCase().split(/[/._-]/)
  expect(paths.filter((path) => words(path).some((word) => BANNED.test(word)))).toEqual([])
})

test('the environment is read in config.ts, and only the command line prints', () => {
  const reads = offenders(product, (node, path) => isAccess(node, 'process.env') && !path.endsWith('/config.ts'))
  const prints = offenders(product, (node, path) => isAccess(node, 'console.log') && service(path) !== 'cli')
  expect([...reads, ...prints]).toEqual([])
})
const isAccess = (node: Node, text: string): boolean =>
  node.kind === SyntaxKind.PropertyAccessExpression && node.getText() === text

test('nothing is any, exported as default or passed on', () => {
  const banned = [SyntaxKind.AnyKeyword, SyntaxKind.DefaultKeyword, SyntaxKind.ExportAssignment]
  const inSwitch = (node: Node): boolean => node.parent?.kind === SyntaxKind.DefaultClause
  const wrong = offenders(
    product,
    (node) =>
      (banned.includes(node.kind) && !inSwitch(node)) ||
      (node.kind === SyntaxKind.ExportDeclaration && 'moduleSpecifier' in node && node.moduleSpecifier !== undefined),
  )
  const anyInTests = offenders(sources, (node) => node.kind === SyntaxKind.AnyKeyword)
  expect([...wrong, ...anyInTests]).toEqual([])
})

test('nothing is left to do, and no path is of one machine', () => {
  const files = list('.', /(\.(ts|mjs|py|sh|proto|md|ya?ml)|Dockerfile|\/run)$/).filter(
    (path) => path !== 'test/tidy.test.ts',
  )
  const bad = /\b(TODO|FIXME|XXX)\b|(?<![\w.$}])\/(home|root|work|Users)\//
  expect(files.filter((path) => bad.test(read(path)))).toEqual([])
})
