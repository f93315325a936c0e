import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { ModelConfig, Precision, Source } from '../../shared/model/config.ts'
import type { Weights } from '../../shared/model/fill.ts'
import type { Graph } from '../../shared/model/graph/onnx.ts'
import { type Part, partGraph, shardName } from '../../shared/model/part.ts'
import { openSession, type Session } from '../../shared/model/session.ts'
import { writeShard } from '../../shared/model/shard.ts'
import { expertTensors, layerTensors, modelTensors } from '../../shared/model/tensors.ts'
import { gaussian, seedOf, uniform } from './numbers.ts'

const size = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1)

/** Norms lie around 1; a matrix keeps the size of what it multiplies. */
const draw = ({ name, shape }: Source, seed: number): Float32Array => {
  const next = uniform(seedOf(`${seed} ${name}`))
  const normal = gaussian(seedOf(`${seed} ${name}`))
  if (name.endsWith('norm')) return Float32Array.from({ length: size(shape) }, () => 0.5 + next())
  const deviation = shape.length === 1 ? 0.3 : 1 / Math.sqrt(shape.at(-1)!)
  return Float32Array.from({ length: size(shape) }, () => normal() * deviation)
}

/** Random weights for any canonical config, those that no family has included. `change` may alter a tensor by its name. */
export const randomModel = (
  config: ModelConfig,
  seed: number,
  change: (name: string, values: Float32Array) => void = () => {},
): Weights => ({
  config,
  weights: {
    model: (name) => {
      const stored = name === 'head' && config.tied ? 'embed' : name
      return { name: stored, shape: modelTensors(config).get(stored)! }
    },
    layer: (layer, name) => ({ name: `${layer} ${name}`, shape: layerTensors(config, layer).get(name)! }),
    expert: (layer, expert, name) => ({
      name: `${layer} expert ${expert} ${name}`,
      shape: expertTensors(config).get(name)!,
    }),
  },
  checkpoint: {
    read: async (source) => {
      const values = draw(source, seed)
      change(source.name, values)
      return values
    },
  },
})

const kept = async (graph: Graph, folder: string, shard: string): Promise<Session> => {
  const session = await openSession(graph, { folder, shard, threads: 1, device: 'cpu' })
  onTestFinished(async () => {
    await session.close()
    await rm(folder, { recursive: true, force: true })
  })
  return session
}

const temporary = (): Promise<string> => mkdtemp(join(tmpdir(), 'expertmesh-graph-'))

/** A part of the model, converted and opened as the gateway and the workers do; closed when the test ends. */
export const openPart = async (model: Weights, part: Part, precision: Precision): Promise<Session> => {
  const folder = await temporary()
  await writeShard(model, folder, precision, part)
  return kept(partGraph(model.config, part, precision), folder, shardName(part))
}

/** A graph over these weights; closed when the test ends. */
export const openGraph = async (
  graph: Graph,
  values: Record<string, Float32Array | Int8Array | Uint8Array> = {},
): Promise<Session> => {
  const folder = await temporary()
  const file = new Uint8Array(graph.shardBytes)
  for (const { name, offset } of graph.weights) {
    const { buffer, byteOffset, byteLength } = values[name]
    file.set(new Uint8Array(buffer, byteOffset, byteLength), offset)
  }
  await writeFile(join(folder, 'weights.bin'), file)
  return kept(graph, folder, 'weights.bin')
}

/** Seeded normal numbers. */
export const normals = (length: number, seed: number): Float32Array => {
  const next = gaussian(seed)
  return Float32Array.from({ length }, next)
}
