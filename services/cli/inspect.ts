import { Command } from 'commander'
import { type ModelConfig, PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { openModel } from '../../shared/model/open.ts'
import { expertParts, gatewayParts, type LayerExperts, type Part, partGraph } from '../../shared/model/part.ts'
import { count } from './cluster.ts'
import { whole } from './flags.ts'

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
  /** How many of the layers are an encoder's; 0 in a decoder alone. */
  encoderLayers: number
  sparseLayers: number
  hidden: number
  vocabulary: number
  contextLength: number
  experts: { perLayer: number; topK: number; width: number; total: number }
  /** FFNs that every token goes through: those of dense layers, and those beside a sparse layer's experts. */
  dense: { layers: number; width: number; sharedWidth: number }
  axes: { norm: string; positions: string; attention: string; ffn: string; router: string | null }
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
    encoderLayers: config.encoder?.layers ?? 0,
    sparseLayers: sparse.length,
    hidden: config.hidden,
    vocabulary: config.vocabulary,
    contextLength: config.contextLength,
    experts: { perLayer: experts, topK, width, total: sparse.length * experts },
    dense: {
      layers: config.layers.length - sparse.length,
      width: config.denseWidth,
      sharedWidth: sparse.length > 0 ? config.moe.sharedWidth : 0,
    },
    axes: axesOf(config, sparse.length > 0),
    parts: kinds
      .filter((parts) => parts.length > 0)
      .map((parts) => ({ name: KINDS[parts[0].kind], count: parts.length, bytes: bytesOf(config, parts) })),
    gatewayBytes: bytesOf(config, own),
    workers: dealt.map((home) => ({ experts: home, bytes: bytesOf(config, expertParts(home)) })),
  }
}

/** A model's place on the axes of the canonical config, in words. */
const axesOf = ({ norm, positions, attention, ffn, moe }: ModelConfig, sparse: boolean): Inspection['axes'] => {
  const { score, capacity } = moe.router
  const grouped = attention.kind === 'gqa' && attention.kvHeads < attention.heads
  const kind = attention.kind === 'mla' ? 'mla' : grouped ? 'gqa' : 'mha'
  const scaled = positions.kind === 'rope' && positions.scaling.kind !== 'none' ? ` ${positions.scaling.kind}` : ''
  return {
    norm: `${norm.placement} ${norm.kind}`,
    positions: `${positions.kind}${scaled}`,
    attention: `${kind} ${count(attention.heads, 'head')}${grouped ? ` over ${attention.kvHeads}` : ''}`,
    ffn: `${ffn.gated ? 'gated ' : ''}${ffn.activation}`,
    router: sparse ? `${score} top-${moe.topK}${capacity ? ' with capacity' : ''}` : null,
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
  const bytes = (precision: Precision): number => {
    const known = new Map<string, number>()
    const size = (part: Part): number => {
      const key = part.kind === 'expert' ? 'expert' : `${part.kind} ${'layer' in part ? part.layer : ''}`
      const found = known.get(key) ?? partGraph(config, part, precision).shardBytes
      known.set(key, found)
      return found
    }
    return parts.reduce((sum, part) => sum + size(part), 0)
  }
  return { fp32: bytes('fp32'), int8: bytes('int8'), int4: bytes('int4') }
}

const mib = (bytes: number): string => `${(bytes / MIB).toFixed(1)} MiB`.padStart(13)
const row = (name: string, number: string, bytes: Bytes): string =>
  [name.padEnd(28), number.padStart(6), ...PRECISIONS.map((precision) => mib(bytes[precision]))].join('')

const stacks = ({ layers, encoderLayers, sparseLayers }: Inspection): string => {
  const sparse = sparseLayers > 0 ? [`${sparseLayers} with experts`] : []
  const halves = encoderLayers > 0 ? [`${encoderLayers} of the encoder, ${layers - encoderLayers} of the decoder`] : []
  const notes = [...halves, ...sparse]
  return `${count(layers, 'layer')}${notes.length > 0 ? ` (${notes.join(', ')})` : ''}`
}

const ffns = ({ experts, dense, sparseLayers }: Inspection): string[] => {
  const beside = dense.sharedWidth > 0 ? `, beside shared experts of width ${dense.sharedWidth}` : ''
  const sparse = `${count(experts.perLayer, 'expert')} of width ${experts.width} in each of ${count(sparseLayers, 'layer')}, ${experts.topK} run for each token${beside}`
  return [
    ...(sparseLayers > 0 ? [sparse] : []),
    ...(dense.layers > 0 ? [`dense FFN of width ${dense.width} in ${count(dense.layers, 'layer')}`] : []),
  ]
}

const shares = ({ gatewayBytes, workers }: Inspection): string[] => [
  `with ${count(workers.length, 'equal worker')}:`,
  row('gateway', '', gatewayBytes),
  ...workers.flatMap(({ experts: home, bytes }, index) => [
    row(`worker ${index}`, String(home.reduce((sum, { experts: ids }) => sum + ids.length, 0)), bytes),
    ...home
      .filter(({ experts: ids }) => ids.length > 0)
      .map(({ layer, experts: ids }) => `  layer ${layer}: ${ids.join(' ')}`),
  ]),
]

export const render = (model: Inspection): string => {
  const words = Object.entries(model.axes).flatMap(([axis, word]) => (word === null ? [] : [`${axis} ${word}`]))
  return [
    `${model.name}: ${model.family}, ${stacks(model)}, hidden ${model.hidden}, vocabulary ${model.vocabulary}, context ${model.contextLength}`,
    ...ffns(model),
    words.join(', '),
    '',
    ['part'.padEnd(28), 'count'.padStart(6), ...PRECISIONS.map((precision) => precision.padStart(13))].join(''),
    ...model.parts.map((part) => row(part.name, String(part.count), part.bytes)),
    '',
    ...(model.sparseLayers > 0 ? shares(model) : ['no experts: the gateway holds everything, and workers nothing']),
  ].join('\n')
}
