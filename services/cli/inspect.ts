import { Command } from 'commander'
import type { ModelConfig, Precision } from '../../shared/model/config.ts'
import { openModel } from '../../shared/model/open.ts'
import { expertParts, gatewayParts, type LayerExperts, type Part, partGraph } from '../../shared/model/part.ts'
import { count } from './cluster.ts'
import { whole } from './flags.ts'

const PRECISIONS: readonly Precision[] = ['fp32', 'int8']
const MIB = 2 ** 20
const WORKERS_MAX = 4096

export const inspectCommand = (): Command =>
  new Command('inspect')
    .description('Checks a model folder and shows its layers, experts, bytes, and what would go where')
    .argument('<model-dir>', 'Hugging Face model folder')
    .option('--workers <n>', 'how many equal workers share the experts', whole(1, WORKERS_MAX), 2)
    .option('--json', 'print one JSON object')
    .action(async (dir: string, options: { workers: number; json?: boolean }) => {
      const model = await openModel(dir)
      await model.close()
      const inspection = inspect(model.name, model.config, options.workers)
      console.log(options.json ? JSON.stringify(inspection) : render(inspection))
    })

type Bytes = Record<Precision, number>
export type Inspection = {
  name: string
  family: string
  layers: number
  sparseLayers: number
  hidden: number
  vocabulary: number
  contextLength: number
  experts: { perLayer: number; topK: number; width: number; total: number }
  parts: { name: string; count: number; bytes: Bytes }[]
  gatewayBytes: Bytes
  workers: { experts: LayerExperts[]; bytes: Bytes }[]
}

const KINDS: Record<Part['kind'], string> = {
  embed: 'embedding',
  place: 'positions',
  project: 'attention: norm, q, k, v',
  source: 'cross-attention: k, v',
  cross: 'cross-attention: q',
  output: 'attention: output; router',
  settle: 'norms after layers',
  shared: 'dense FFNs, shared experts',
  expert: 'routed experts',
  head: 'head',
}

/** What a model is made of, in bytes of converted weights, and how `workers` equal workers would share its experts. */
export const inspect = (name: string, config: ModelConfig, workers: number): Inspection => {
  const sparse = config.layers.flatMap(({ ffn }, layer) => (ffn === 'sparse' ? [layer] : []))
  const { experts, topK, width } = config.moe
  const own = gatewayParts(config)
  const dealt = deal(sparse, experts, workers)
  const all = [...own, ...dealt.flatMap((home) => expertParts(home))]
  const kinds = (Object.keys(KINDS) as Part['kind'][]).map((kind) => all.filter((part) => part.kind === kind))
  return {
    name,
    family: config.family,
    layers: config.layers.length,
    sparseLayers: sparse.length,
    hidden: config.hidden,
    vocabulary: config.vocabulary,
    contextLength: config.contextLength,
    experts: { perLayer: experts, topK, width, total: sparse.length * experts },
    parts: kinds
      .filter((parts) => parts.length > 0)
      .map((parts) => ({ name: KINDS[parts[0].kind], count: parts.length, bytes: bytesOf(config, parts) })),
    gatewayBytes: bytesOf(config, own),
    workers: dealt.map((home) => ({ experts: home, bytes: bytesOf(config, expertParts(home)) })),
  }
}

/** Round robin over layers and experts, which is what a gateway deals to workers of equal memory. */
export const deal = (layers: readonly number[], experts: number, workers: number): LayerExperts[][] =>
  Array.from({ length: workers }, (_, worker) =>
    layers.map((layer, row) => ({
      layer,
      experts: Array.from({ length: experts }, (_, expert) => expert).filter(
        (expert) => (row * experts + expert) % workers === worker,
      ),
    })),
  )

/** Experts are all of one size, so one graph stands for all. */
const bytesOf = (config: ModelConfig, parts: readonly Part[]): Bytes => {
  const bytes = PRECISIONS.map((precision) => {
    const known = new Map<string, number>()
    const size = (part: Part): number => {
      const key = part.kind === 'expert' ? 'expert' : `${part.kind} ${'layer' in part ? part.layer : ''}`
      const found = known.get(key) ?? partGraph(config, part, precision).shardBytes
      known.set(key, found)
      return found
    }
    return parts.reduce((sum, part) => sum + size(part), 0)
  })
  return { fp32: bytes[0], int8: bytes[1] }
}

const mib = (bytes: number): string => `${(bytes / MIB).toFixed(1)} MiB`.padStart(13)
const row = (name: string, number: string, bytes: Bytes): string =>
  `${name.padEnd(28)}${number.padStart(6)}${mib(bytes.fp32)}${mib(bytes.int8)}`

const render = (model: Inspection): string => {
  const { experts, workers } = model
  return [
    `${model.name}: ${model.family}, ${count(model.layers, 'layer')} (${model.sparseLayers} with experts), hidden ${model.hidden}, vocabulary ${model.vocabulary}, context ${model.contextLength}`,
    `${experts.perLayer} experts of width ${experts.width} in each of those layers, ${experts.topK} run for each token`,
    '',
    `${'part'.padEnd(28)}${'count'.padStart(6)}${'fp32'.padStart(13)}${'int8'.padStart(13)}`,
    ...model.parts.map((part) => row(part.name, String(part.count), part.bytes)),
    '',
    `with ${count(workers.length, 'equal worker')}:`,
    row('gateway', '', model.gatewayBytes),
    ...workers.flatMap(({ experts: home, bytes }, index) => [
      row(`worker ${index}`, String(home.reduce((sum, { experts: ids }) => sum + ids.length, 0)), bytes),
      ...home
        .filter(({ experts: ids }) => ids.length > 0)
        .map(({ layer, experts: ids }) => `  layer ${layer}: ${ids.join(' ')}`),
    ]),
  ].join('\n')
}
