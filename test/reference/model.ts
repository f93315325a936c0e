import assert from 'node:assert/strict'
import type { ModelConfig, StackTensor } from '../../shared/model/config.ts'
import { hasCross, inEncoder } from '../../shared/model/tensors.ts'
import { cross, crossKeys, gqa, type KeyValues, mla, type Sight } from './attention.ts'
import { feedForward } from './ffn.ts'
import { add, linear, sigmoid } from './linear.ts'
import { normalise } from './norm.ts'
import { bucketOf, sinusoid } from './positions.ts'
import { turnAt } from './rope.ts'
import { affinities, type Routes, route } from './router.ts'
import { type OpenModel, readWeights, type Weights } from './weights.ts'

/** A sequence under way: what its earlier positions left in every layer, and what a decoder's layers see of its source. */
export type Past = { promptLength: number; layers: KeyValues[]; source: (KeyValues | null)[] }

type Stack = '' | 'encoder.'

/** The parts of a layer, in the order of a forward step; h [T,H] is the residual stream. */
export type Parts = {
  /** [T] ids of positions first… → [T,H]. */
  embed(ids: readonly number[], first?: number, stack?: Stack): Float32Array
  /**
   * h after attention (to the source too, where there is one), x = what the FFN reads, and the router's affinities [T,E] (null in a
   * dense layer).
   */
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
  /** h with the FFN's result added → what the next layer reads. */
  settle(layer: number, h: Float32Array): Float32Array
  /** The norm after the last layer of a stack, where there is one. */
  finish(h: Float32Array, stack?: Stack): Float32Array
  /** The norm after the last layer, and the head: [T,H] → [T,V]. */
  head(h: Float32Array): Float32Array
}

/** The whole model, plain and slow: what every faster path is checked against. */
export type Reference = Parts & {
  config: ModelConfig
  /** An empty past for a sequence of `promptLength` prompt tokens (of no matter but to dynamic rope scaling). */
  begin(promptLength: number): Past
  /** An encoder–decoder's past before its first output, `start`: the whole source goes through the encoder. */
  encode(source: readonly number[]): Past
  /** One step over the next tokens of a sequence → their logits [T][V]; the past grows by T. */
  step(ids: readonly number[], past: Past): Float32Array[]
  /** Logits [T][V] of every position, without a past. promptLength is ids.length unless told otherwise. */
  logits(ids: readonly number[], promptLength?: number): Float32Array[]
  /** The next n tokens after a prompt, or for a source, each the lowest id among the largest logits; no id ends the sequence. */
  greedy(prompt: readonly number[], n: number): number[]
}

const rowsOf = (x: Float32Array, width: number): Float32Array[] =>
  Array.from({ length: x.length / width }, (_, row) => x.slice(row * width, (row + 1) * width))

/** The row [H] that tells a position, where one is added to the embedding. */
const positionRow = (
  { positions: p, hidden }: ModelConfig,
  position: number,
  table: Float32Array | undefined,
): Float32Array | null => {
  if (p.kind === 'sinusoidal') return sinusoid(position + p.first, hidden, p.divisor)
  if (p.kind !== 'learned') return null
  assert(position + p.first < p.rows, `position ${position} is beyond the learned ones`)
  return table!.subarray((position + p.first) * hidden, (position + p.first + 1) * hidden)
}

/** What a layer's queries see of its own stack. */
export const sightOf = (config: ModelConfig, layer: number, table: Float32Array | undefined): Sight => {
  const { positions, attention } = config
  const encoder = inEncoder(config, layer)
  const bias: Sight['bias'] =
    positions.kind === 'relative'
      ? (head, query, key) => table![bucketOf(key - query, positions, encoder) * attention.heads + head]
      : null
  return { causal: !encoder, window: config.layers[layer].window, bias }
}

const partsOf = (config: ModelConfig, weights: Weights): Parts => {
  const { hidden, moe, attention, positions, norm, embedding } = config
  const stackOf = (layer: number): Stack => (inEncoder(config, layer) ? 'encoder.' : '')
  const stackNorm = (h: Float32Array, stack: Stack, name: StackTensor & ('norm' | 'embed.norm')) =>
    normalise(norm, h, weights.model, `${stack}${name}`)

  const attend: Parts['attend'] = (layer, h, past) => {
    const { tensors } = weights.layers[layer]
    const seen = past.layers[layer]
    const source = past.source[layer]
    const first = seen.keys.length
    const rope = positions.kind === 'rope' ? positions : null
    const turns = (rows: number) =>
      Array.from({ length: rope ? rows : 0 }, (_, row) => turnAt(rope!, first + row, past.promptLength))
    /** A sublayer with its residual and norm. */
    const around = (name: 'attention.norm' | 'cross.norm', x: Float32Array, f: (x: Float32Array) => Float32Array) =>
      norm.placement === 'pre'
        ? add(x, f(normalise(norm, x, tensors, name)))
        : normalise(norm, add(x, f(x)), tensors, name)
    let sum = around('attention.norm', h, (x) => {
      const sight = sightOf(config, layer, weights.model[`${stackOf(layer)}positions`])
      const layout = rope?.layout ?? 'half'
      const input = { x, hidden, turns: turns(h.length / hidden), layout, sight, past: seen }
      return attention.kind === 'gqa' ? gqa(attention, tensors, norm.eps, input) : mla(attention, tensors, input)
    })
    if (source) {
      assert(attention.kind === 'gqa')
      sum = around('cross.norm', sum, (x) => cross(attention, tensors, x, hidden, source))
    }
    const x = norm.placement === 'pre' ? normalise(norm, sum, tensors, 'ffn.norm') : sum
    const affinity = tensors.router
      ? affinities(linear(x, tensors.router, hidden), moe.experts, moe.router.score)
      : null
    return { h: sum, x, affinity }
  }

  const shared: Parts['shared'] = (layer, x) => {
    const { tensors, shared: ffn } = weights.layers[layer]
    if (!ffn) return null
    const y = feedForward(config.ffn, x, ffn, hidden)
    if (!tensors['shared.router']) return y
    const gates = linear(x, tensors['shared.router'], hidden).map(sigmoid)
    return y.map((value, i) => value * gates[Math.floor(i / hidden)])
  }

  const embed: Parts['embed'] = (ids, first = 0, stack = '') => {
    const h = new Float32Array(ids.length * hidden)
    ids.forEach((id, row) => {
      assert(id >= 0 && id < config.vocabulary, `token ${id} is outside the vocabulary`)
      const own = weights.model.embed!.slice(id * hidden, (id + 1) * hidden).map((value) => value * embedding.scale)
      const position = positionRow(config, first + row, weights.model[`${stack}positions`])
      h.set(position ? add(own, position) : own, row * hidden)
    })
    return embedding.norm ? stackNorm(h, stack, 'embed.norm') : h
  }

  const finish: Parts['finish'] = (h, stack = '') => (norm.placement === 'pre' ? stackNorm(h, stack, 'norm') : h)

  return {
    embed,
    attend,
    route: (layer, affinity) =>
      route(affinity, moe, weights.layers[layer].tensors['router.bias'], inEncoder(config, layer)),
    expert: (layer, expert, x) => feedForward(config.ffn, x, weights.layers[layer].experts[expert], hidden),
    shared,
    settle: (layer, h) =>
      norm.placement === 'pre' ? h : normalise(norm, h, weights.layers[layer].tensors, 'ffn.norm'),
    finish,
    head: (h) => {
      const x = finish(h).map((value) => value * config.head.scale)
      return linear(x, weights.model.head!, hidden, weights.model['head.bias'])
    },
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
  const weights = await readWeights(model)
  const parts = partsOf(config, weights)
  const encoderLayers = config.encoder?.layers ?? 0

  const begin: Reference['begin'] = (promptLength) => ({
    promptLength,
    layers: config.layers.map(() => ({ keys: [], values: [] })),
    source: config.layers.map(() => null),
  })
  const pass = (begin: number, end: number, rows: Float32Array, past: Past): Float32Array => {
    let h = rows
    for (let layer = begin; layer < end; layer++) {
      const after = parts.attend(layer, h, past)
      const shared = parts.shared(layer, after.x)
      h = after.h
      if (after.affinity) h = add(h, routed(parts, layer, after.x, after.affinity, config.hidden))
      if (shared) h = add(h, shared)
      h = parts.settle(layer, h)
    }
    return h
  }
  const encode: Reference['encode'] = (source) => {
    const past = begin(source.length)
    const rows = parts.finish(pass(0, encoderLayers, parts.embed(source, 0, 'encoder.'), past), 'encoder.')
    const { attention } = config
    assert(config.encoder && attention.kind === 'gqa', 'only an encoder–decoder encodes')
    const seen = config.layers.map((_, layer) =>
      hasCross(config, layer) ? crossKeys(attention, weights.layers[layer].tensors, rows, config.hidden) : null,
    )
    return { ...begin(1), source: seen }
  }
  const step: Reference['step'] = (ids, past) => {
    const first = past.layers.at(-1)!.keys.length
    const h = pass(encoderLayers, config.layers.length, parts.embed(ids, first), past)
    return rowsOf(parts.head(h), config.vocabulary)
  }
  const greedy: Reference['greedy'] = (prompt, n) => {
    const past = config.encoder ? encode(prompt) : begin(prompt.length)
    const output: number[] = []
    let ids = config.encoder ? [config.encoder.start] : prompt
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
    encode,
    step,
    logits: (ids, promptLength = ids.length) => step(ids, begin(promptLength)),
    greedy,
  }
}
