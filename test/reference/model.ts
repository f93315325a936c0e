import assert from 'node:assert/strict'
import type { ModelConfig } from '../../shared/model/config.ts'
import { gqa, type KeyValues, mla } from './attention.ts'
import { swiglu } from './ffn.ts'
import { add, linear, sigmoid } from './linear.ts'
import { rmsNorm } from './norm.ts'
import { turnAt } from './rope.ts'
import { affinities, type Routes, route } from './router.ts'
import { type OpenModel, readWeights, type Weights } from './weights.ts'

/** A sequence under way: what its earlier positions left in every layer. */
export type Past = { promptLength: number; layers: KeyValues[] }

/** The parts of a layer, in the order of a forward step; h [T,H] is the residual stream. */
export type Parts = {
  /** [T] ids → [T,H]. */
  embed(ids: readonly number[]): Float32Array
  /** h after attention and its residual, x = ffn norm of it, and the router's affinities [T,E] (null in a dense layer). */
  attend(
    layer: number,
    h: Float32Array,
    past: Past,
  ): { h: Float32Array; x: Float32Array; affinity: Float32Array | null }
  route(layer: number, affinity: Float32Array): Routes
  /** x [T,H] through one routed expert → [T,H], unweighted. */
  expert(layer: number, expert: number, x: Float32Array): Float32Array
  /** x [T,H] through the shared experts, times their gate, or through a dense layer's FFN; null where there is neither. */
  shared(layer: number, x: Float32Array): Float32Array | null
  /** Final norm and head: [T,H] → [T,V]. */
  head(h: Float32Array): Float32Array
}

/** The whole model, plain and slow: what every faster path is checked against. */
export type Reference = Parts & {
  config: ModelConfig
  /** An empty past for a sequence of `promptLength` prompt tokens (of no matter but to dynamic rope scaling). */
  begin(promptLength: number): Past
  /** One step over the next tokens of a sequence → their logits [T][V]; the past grows by T. */
  step(ids: readonly number[], past: Past): Float32Array[]
  /** Logits [T][V] of every position, without a past. promptLength is ids.length unless told otherwise. */
  logits(ids: readonly number[], promptLength?: number): Float32Array[]
  /** The next n tokens, each the lowest id among the largest logits; no id ends the sequence. */
  greedy(prompt: readonly number[], n: number): number[]
}

const rowsOf = (x: Float32Array, width: number): Float32Array[] =>
  Array.from({ length: x.length / width }, (_, row) => x.slice(row * width, (row + 1) * width))

const partsOf = (config: ModelConfig, weights: Weights): Parts => {
  const { hidden, moe, attention, positions } = config
  const { eps } = config.norm

  const attend: Parts['attend'] = (layer, h, past) => {
    const { tensors } = weights.layers[layer]
    const seen = past.layers[layer]
    const first = seen.keys.length
    const input = {
      x: rmsNorm(h, tensors['attention.norm']!, eps),
      hidden,
      turns: Array.from({ length: h.length / hidden }, (_, row) => turnAt(positions, first + row, past.promptLength)),
      layout: positions.layout,
      window: config.layers[layer].window,
      past: seen,
    }
    const mixed = attention.kind === 'gqa' ? gqa(attention, tensors, eps, input) : mla(attention, tensors, input)
    const sum = add(h, mixed)
    const x = rmsNorm(sum, tensors['ffn.norm']!, eps)
    const affinity = tensors.router
      ? affinities(linear(x, tensors.router, hidden), moe.experts, moe.router.score)
      : null
    return { h: sum, x, affinity }
  }

  const shared: Parts['shared'] = (layer, x) => {
    const { tensors, shared: ffn } = weights.layers[layer]
    if (!ffn) return null
    const y = swiglu(x, ffn, hidden)
    if (!tensors['shared.router']) return y
    const gates = linear(x, tensors['shared.router'], hidden).map(sigmoid)
    return y.map((value, i) => value * gates[Math.floor(i / hidden)])
  }

  return {
    embed: (ids) => {
      const h = new Float32Array(ids.length * hidden)
      ids.forEach((id, row) => {
        assert(id >= 0 && id < config.vocabulary, `token ${id} is outside the vocabulary`)
        h.set(weights.model.embed.subarray(id * hidden, (id + 1) * hidden), row * hidden)
      })
      return h
    },
    attend,
    route: (layer, affinity) => route(affinity, moe, weights.layers[layer].tensors['router.bias']),
    expert: (layer, expert, x) => swiglu(x, weights.layers[layer].experts[expert], hidden),
    shared,
    head: (h) => linear(rmsNorm(h, weights.model.norm, eps), weights.model.head, hidden),
  }
}

/** Σ weight · expert(x) over each row's experts in ascending id. → [T,H]. */
const routed = (parts: Parts, layer: number, x: Float32Array, affinity: Float32Array, hidden: number): Float32Array => {
  const { ids, weights } = parts.route(layer, affinity)
  const out = new Float32Array(x.length)
  const topK = ids.length / (x.length / hidden)
  ids.forEach((expert, slot) => {
    const at = Math.floor(slot / topK) * hidden
    const y = parts.expert(layer, expert, x.subarray(at, at + hidden))
    for (let i = 0; i < hidden; i++) out[at + i] += weights[slot] * y[i]
  })
  return out
}

const argmax = (values: Float32Array): number => values.reduce((best, value, i) => (value > values[best] ? i : best), 0)

export const loadReference = async (model: OpenModel): Promise<Reference> => {
  const { config } = model
  const parts = partsOf(config, await readWeights(model))

  const begin: Reference['begin'] = (promptLength) => ({
    promptLength,
    layers: config.layers.map(() => ({ keys: [], values: [] })),
  })
  const step: Reference['step'] = (ids, past) => {
    let h = parts.embed(ids)
    for (let layer = 0; layer < config.layers.length; layer++) {
      const after = parts.attend(layer, h, past)
      const shared = parts.shared(layer, after.x)
      h = after.h
      if (after.affinity) h = add(h, routed(parts, layer, after.x, after.affinity, config.hidden))
      if (shared) h = add(h, shared)
    }
    return rowsOf(parts.head(h), config.vocabulary)
  }
  const greedy: Reference['greedy'] = (prompt, n) => {
    const past = begin(prompt.length)
    const output: number[] = []
    let ids = prompt
    while (output.length < n) {
      output.push(argmax(step(ids, past).at(-1)!))
      ids = output.slice(-1)
    }
    return output
  }
  return {
    ...parts,
    config,
    begin,
    step,
    logits: (ids, promptLength = ids.length) => step(ids, begin(promptLength)),
    greedy,
  }
}
