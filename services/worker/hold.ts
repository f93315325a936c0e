import type { Logger } from 'pino'
import { Code, invalid, MeshError } from '../../shared/errors.ts'
import type { ModelConfig } from '../../shared/model/config.ts'
import { convert } from '../../shared/model/convert.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import { expertParts, type LayerExperts } from '../../shared/model/part.ts'
import { notHeld } from './job.ts'
import type { Lane } from './lane.ts'
import type { VisibleModel } from './models.ts'

/** An expert that is here or on its way: in one compute thread, so that its weights exist once. */
type Entry = {
  model: VisibleModel
  layer: number
  expert: number
  lane: number
  /** Settles when it can run, or cannot. */
  ready: Promise<void>
  held: boolean
}

type ModelExperts = { model: string; experts: { layer: number; experts: number[] }[] }

/** Says which experts are here, and brings and drops them within the memory limit. */
export class Hold {
  readonly memoryLimitBytes: number
  readonly #models: ReadonlyMap<string, VisibleModel>
  readonly #lanes: readonly Lane[]
  readonly #cacheDir: string
  readonly #needed: (model: string) => boolean
  readonly #log: Logger
  readonly #entries = new Map<string, Entry>()
  readonly #stopping = new AbortController()
  /** One conversion at a time: it reads and writes as fast as the disk can. */
  #conversions: Promise<unknown> = Promise.resolve()
  #reservedBytes = 0

  constructor(options: {
    models: readonly VisibleModel[]
    lanes: readonly Lane[]
    cacheDir: string
    memoryLimitBytes: number
    /** Whether somebody needs what is held of this model: what nobody does makes room for other models. */
    needed: (model: string) => boolean
    log: Logger
  }) {
    this.#models = new Map(options.models.map((model) => [model.hash, model]))
    this.#lanes = options.lanes
    this.#cacheDir = options.cacheDir
    this.memoryLimitBytes = options.memoryLimitBytes
    this.#needed = options.needed
    this.#log = options.log
  }

  get visible(): string[] {
    return [...this.#models.keys()]
  }

  /** Bytes of experts here, on their way in, or on their way out. */
  get heldBytes(): number {
    return this.#reservedBytes
  }

  /** Of heldBytes, what would make room for experts of this model. */
  idleBytes(model: string): number {
    return this.#idle(model).reduce((sum, entry) => sum + entry.model.expertBytes, 0)
  }

  /** Experts that can run, by model. */
  held(): ModelExperts[] {
    return this.#list(true)
  }

  /** Experts on their way in, by model. */
  loading(): ModelExperts[] {
    return this.#list(false)
  }

  #list(wanted: boolean): ModelExperts[] {
    const models = new Map<string, Map<number, number[]>>()
    for (const { model, layer, expert, held } of this.#entries.values()) {
      if (held !== wanted) continue
      const layers = models.get(model.hash) ?? new Map<number, number[]>()
      models.set(model.hash, layers)
      layers.set(layer, [...(layers.get(layer) ?? []), expert])
    }
    return [...models].map(([model, layers]) => ({
      model,
      experts: [...layers]
        .sort(([a], [b]) => a - b)
        .map(([layer, experts]) => ({ layer, experts: experts.sort((a, b) => a - b) })),
    }))
  }

  /**
   * Tells the lane of each expert of a frame that fits its model.
   * @throws MeshError NOT_FOUND for what the model or worker does not have, FAILED_PRECONDITION for what is not held.
   */
  lanesOf(hash: string, frame: ExpertFrame): (expert: number) => number {
    const model = this.#visible(hash)
    const { config, precision } = model
    if (frame.hidden !== config.hidden) {
      throw invalid(`rows are ${frame.hidden} wide and this model's are ${config.hidden}`, 'hidden')
    }
    if ((frame.rowScale !== null) !== (precision === 'int8')) {
      const needed = precision === 'int8' ? 'uint8 rows with row_scale' : 'float32 rows without row_scale'
      throw invalid(`an ${precision} model takes ${needed}`, 'rows')
    }
    return (expert) => {
      checkExists(config, frame.layer, expert)
      const entry = this.#entries.get(key(hash, frame.layer, expert))
      if (!entry?.held) throw notHeld(frame.layer, expert)
      return entry.lane
    }
  }

  /** Resolves when all of these can run, with how many of them this call made ready. Concurrent calls share the work. */
  async load(hash: string, wanted: readonly LayerExperts[]): Promise<number> {
    const model = this.#visible(hash)
    for (const [layer, expert] of pairs(wanted)) checkExists(model.config, layer, expert)
    const lacking = (): Pair[] =>
      unique(wanted).filter(([layer, expert]) => !this.#entries.has(key(hash, layer, expert)))
    const neededBytes = (): number => lacking().length * model.expertBytes
    if (neededBytes() > this.#freeBytes) await this.#makeRoom(hash, neededBytes)
    const fresh = lacking()
    this.#reserve(model, fresh)
    const converted = this.#convert(model, fresh)
    for (const [layer, expert] of fresh) this.#bring(model, layer, expert, converted)
    const entries = unique(wanted).map(([layer, expert]) => this.#entries.get(key(hash, layer, expert)))
    for (const result of await Promise.allSettled(entries.map((entry) => entry?.ready))) {
      if (result.status === 'rejected') throw result.reason
    }
    return fresh.length
  }

  /** Drops these experts of a model (all of them when none is named); returns how many were here. */
  async unload(hash: string, wanted: readonly LayerExperts[]): Promise<number> {
    this.#visible(hash)
    const entries =
      wanted.length === 0
        ? [...this.#entries.values()].filter(({ model }) => model.hash === hash)
        : unique(wanted).flatMap(([layer, expert]) => this.#entries.get(key(hash, layer, expert)) ?? [])
    const dropped = await Promise.all(entries.map((entry) => this.#drop(entry)))
    return dropped.filter(Boolean).length
  }

  /** Ends a conversion that is under way. */
  close(): void {
    this.#stopping.abort()
  }

  #visible(hash: string): VisibleModel {
    const model = this.#models.get(hash)
    if (model) return model
    const cause = `this worker sees no model ${hash.slice(0, 12) || '""'}`
    throw new MeshError(Code.NOT_FOUND, `${cause}; start it with --models naming the same checkpoint and precision`)
  }

  get #freeBytes(): number {
    return this.memoryLimitBytes - this.#reservedBytes
  }

  /** Held experts of models that nobody needs and that are not this one, those first that came first. */
  #idle(hash: string): Entry[] {
    const idle = new Set(this.visible.filter((other) => other !== hash && !this.#needed(other)))
    return [...this.#entries.values()].filter(({ model, held }) => held && idle.has(model.hash))
  }

  /** Drops idle experts one by one until what this model needs is free; none where all of them would not be enough. */
  async #makeRoom(hash: string, neededBytes: () => number): Promise<void> {
    if (neededBytes() > this.#freeBytes + this.idleBytes(hash)) return
    let dropped = 0
    for (const entry of this.#idle(hash)) {
      if (neededBytes() <= this.#freeBytes) break
      // A gateway may have come to need it while others were dropped.
      if (!this.#needed(entry.model.hash) && (await this.#drop(entry))) dropped += 1
    }
    this.#log.info({ dropped, for: hash }, 'experts of models that no gateway serves made room')
  }

  #reserve(model: VisibleModel, fresh: readonly Pair[]): void {
    const needed = fresh.length * model.expertBytes
    const free = this.#freeBytes
    if (needed > free) {
      const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(1)
      const [layer, expert] = fresh[Math.max(0, Math.floor(free / model.expertBytes))]
      const cause = `${fresh.length} experts need ${mib(needed)} MiB and ${mib(Math.max(0, free))} of ${mib(this.memoryLimitBytes)} MiB are free`
      const first = `(layer ${layer}, expert ${expert}) is the first that does not fit`
      throw new MeshError(Code.RESOURCE_EXHAUSTED, `${cause}; ${first}; raise --memory-mib or add a worker`)
    }
    this.#reservedBytes += needed
  }

  #convert(model: VisibleModel, fresh: readonly Pair[]): Promise<void> {
    if (fresh.length === 0) return Promise.resolve()
    const { dir, precision } = model
    const parts = expertParts(fresh.map(([layer, expert]) => ({ layer, experts: [expert] })))
    const job = { modelDir: dir, cacheDir: this.#cacheDir, precision, parts }
    const converted = this.#conversions.then(() => convert(job, { signal: this.#stopping.signal }))
    this.#conversions = converted.catch(() => {})
    return converted
  }

  #bring(model: VisibleModel, layer: number, expert: number, converted: Promise<void>): void {
    const lane = this.#leastBusy(model, layer)
    const job = { kind: 'load', model: sourceOf(model), layer, expert } as const
    const entry: Entry = { model, layer, expert, lane, held: false, ready: Promise.resolve() }
    entry.ready = converted
      .then(() => this.#lanes[lane].perform(job, { owner: this }))
      .then(
        () => {
          entry.held = true
        },
        (error) => {
          this.#remove(entry)
          this.#reservedBytes -= model.expertBytes
          throw error
        },
      )
    entry.ready.catch(() => {})
    this.#entries.set(key(model.hash, layer, expert), entry)
  }

  /** The lane with the fewest experts of this layer, so that one frame keeps all lanes busy; then with the fewest at all. */
  #leastBusy(model: VisibleModel, layer: number): number {
    const inLayer = this.#lanes.map(() => 0)
    const inAll = this.#lanes.map(() => 0)
    for (const entry of this.#entries.values()) {
      inAll[entry.lane] += 1
      if (entry.model === model && entry.layer === layer) inLayer[entry.lane] += 1
    }
    const lanes = [...this.#lanes.keys()]
    return lanes.reduce((best, lane) =>
      (inLayer[lane] - inLayer[best] || inAll[lane] - inAll[best]) < 0 ? lane : best,
    )
  }

  async #drop(entry: Entry): Promise<boolean> {
    await entry.ready.catch(() => {})
    const { model, layer, expert, lane } = entry
    if (!entry.held) return false
    entry.held = false
    this.#remove(entry)
    await this.#lanes[lane].perform({ kind: 'unload', model: model.hash, layer, expert }, { owner: this })
    this.#reservedBytes -= model.expertBytes
    return true
  }

  #remove({ model, layer, expert }: Entry): void {
    this.#entries.delete(key(model.hash, layer, expert))
  }
}

type Pair = readonly [layer: number, expert: number]

const key = (hash: string, layer: number, expert: number): string => `${hash}/${layer}/${expert}`

const sourceOf = ({ hash, dir, precision }: VisibleModel) => ({ hash, dir, precision })

const pairs = (wanted: readonly LayerExperts[]): Pair[] =>
  wanted.flatMap(({ layer, experts }) => experts.map((expert): Pair => [layer, expert]))

const unique = (wanted: readonly LayerExperts[]): Pair[] => [
  ...new Map(pairs(wanted).map((pair) => [pair.join('/'), pair])).values(),
]

const checkExists = (config: ModelConfig, layer: number, expert: number): void => {
  if (config.layers[layer]?.ffn === 'sparse' && expert < config.moe.experts) return
  const sparse = config.layers.flatMap(({ ffn }, i) => (ffn === 'sparse' ? [i] : []))
  const cause = `this model has no (layer ${layer}, expert ${expert})`
  const shape =
    sparse.length === 0
      ? 'no experts'
      : `experts 0 to ${config.moe.experts - 1} in layers ${sparse[0]} to ${sparse.at(-1)}`
  throw new MeshError(Code.NOT_FOUND, `${cause}: it has ${shape}`)
}
