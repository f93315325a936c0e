import type { ModelConfig, Positions } from '../../shared/model/config.ts'
import { seeded } from './random.ts'

/** How many of the drawn encoder–decoders it takes until every axis has taken each of its values. */
export const DRAWN_STACKS = 18

const positionsOf = (index: number, hidden: number): Positions => {
  if (index % 3 === 0) return { kind: 'sinusoidal', first: index % 4, divisor: hidden / 2 - (index % 2) }
  if (index % 3 === 1) return { kind: 'learned', first: 2, rows: 66 }
  return { kind: 'relative', buckets: 8, maxDistance: 20 }
}

/** An encoder–decoder of two layers each, dense and sparse, with odd widths; the same index gives the same config. */
export const drawStacks = (index: number): ModelConfig => {
  const next = seeded(index * 6007 + 5)
  const pick = <T>(...choices: readonly T[]): T => choices[next(choices.length)]
  const hidden = pick(30, 38, 48)
  const kvHeads = pick(1, 2, 3)
  const headDim = pick(6, 10, 16)
  const gated = pick(true, false)
  return {
    family: 'drawn',
    vocabulary: pick(53, 61),
    hidden,
    contextLength: 64,
    norm: { kind: pick('rms', 'layer'), placement: pick('pre', 'post'), eps: pick(1e-6, 1e-5) },
    embedding: { scale: pick(1, Math.sqrt(hidden)), norm: pick(true, false) },
    positions: positionsOf(index, hidden),
    attention: {
      ...{ kind: 'gqa', heads: kvHeads * pick(1, 2), kvHeads, headDim, scale: pick(1, headDim ** -0.5) },
      bias: { q: pick(true, false), k: pick(true, false), v: pick(true, false), o: pick(true, false) },
      ...{ qkNorm: 'none', clip: null },
    },
    ffn: { activation: pick('silu', 'relu', 'gelu', 'gelu_tanh'), gated, bias: !gated && pick(true, false) },
    denseWidth: pick(27, 64),
    moe: {
      ...{ experts: pick(3, 7), topK: 2, width: pick(11, 23), sharedWidth: 0, sharedGate: false },
      router: { score: 'softmax', bias: false, groups: null, renormalise: null, scale: 1, capacity: null },
    },
    encoder: { layers: 2, start: 0, forcedFirst: null, forcedLast: null, suppressed: [], suppressedFirst: [] },
    layers: [
      { ffn: 'dense', window: null },
      { ffn: 'sparse', window: null },
      { ffn: 'dense', window: null },
      { ffn: 'sparse', window: null },
    ],
    tied: pick(true, false),
    head: { scale: pick(1, 0.125), bias: pick(true, false) },
    bos: null,
    eos: [],
  }
}

/** Names the axes of a config in a test's title. */
export const axesOfStacks = ({ norm, positions, embedding, ffn, attention, head }: ModelConfig): string => {
  const act = `${ffn.gated ? 'gated ' : ''}${ffn.activation}${ffn.bias ? ' +bias' : ''}`
  const form = `${norm.kind} ${norm.placement}, ${positions.kind}${embedding.norm ? ' +norm' : ''}, ${act}`
  return `${form}, scale ${attention.scale.toFixed(2)}, head ${head.scale}${head.bias ? ' +bias' : ''}`
}
