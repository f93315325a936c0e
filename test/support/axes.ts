import type { Attention, ModelConfig, RopePositions } from '../../shared/model/config.ts'
import { ropeOf } from '../../shared/model/rope.ts'
import { seeded } from './random.ts'

/** How many of the drawn configs it takes until every axis has taken each of its values beside several of the others'. */
export const DRAWN_CONFIGS = 24

type Pick = <T>(...choices: readonly T[]) => T

const drawAttention = (pick: Pick, index: number): { attention: Attention; rotated: number } => {
  if (index % 3 === 2) {
    const [nope, rope] = [pick(3, 8, 13), pick(2, 6, 8)]
    const qLora = index % 2 === 0 ? null : pick(5, 17)
    const sizes = { heads: pick(1, 2, 5), kvLora: pick(4, 15, 21), nope, rope, valueDim: pick(5, 7, 16) }
    const scale = pick(1, 1.6) / Math.sqrt(nope + rope)
    return { attention: { kind: 'mla', ...sizes, qLora, scale, bias: pick(true, false), eps: 1e-6 }, rotated: rope }
  }
  const kvHeads = pick(1, 2, 3)
  const headDim = pick(6, 10, 16)
  const bias = { q: pick(true, false), k: pick(true, false), v: pick(true, false), o: pick(true, false) }
  const qkNorm = (['none', 'head', 'full'] as const)[(index % 7) % 3]
  const attention = {
    ...{ kind: 'gqa' as const, heads: kvHeads * pick(1, 2, 3), kvHeads, headDim },
    ...{ scale: headDim ** -0.5, bias, qkNorm, clip: pick(null, 0.7, 1.5) },
  }
  return { attention, rotated: pick(headDim, headDim, 4) }
}

/**
 * A config with odd widths of which no two are alike, a dense layer 0 and a sparse layer 1, and the other axes drawn at random.
 * The same index gives the same config.
 */
export const drawConfig = (index: number): ModelConfig => {
  const next = seeded(index * 7919 + 1)
  const pick: Pick = (...choices) => choices[next(choices.length)]
  const { attention, rotated } = drawAttention(pick, index)
  const layout: RopePositions['layout'] = index % 4 < 2 ? 'half' : 'interleaved'
  const sharedWidth = pick(0, 19, 20)
  return {
    family: 'drawn',
    vocabulary: pick(53, 61),
    hidden: pick(31, 37, 48),
    contextLength: 512,
    norm: { kind: 'rms', placement: 'pre', eps: pick(1e-6, 1e-5, 0.01) },
    positions: { kind: 'rope', layout, dim: rotated, theta: pick(100, 10_000), scaling: { kind: 'none' } },
    attention,
    embedding: { scale: 1, norm: false },
    ffn: { activation: 'silu', gated: true, bias: false },
    encoder: null,
    head: { scale: 1, bias: false },
    denseWidth: pick(27, 64),
    moe: {
      experts: pick(3, 7),
      topK: 2,
      width: pick(1, 11, 23),
      router: {
        score: pick('softmax', 'sigmoid'),
        bias: false,
        groups: null,
        renormalise: null,
        scale: 1,
        capacity: null,
      },
      sharedWidth,
      sharedGate: sharedWidth > 0 && pick(true, false),
    },
    layers: [
      { ffn: 'dense', window: null },
      { ffn: 'sparse', window: pick(null, 3) },
    ],
    tied: pick(true, false),
    bos: null,
    eos: [],
  }
}

/** Names the axes of a config in a test's title. */
export const axesOf = (config: ModelConfig): string => {
  const { attention: a, moe, tied } = config
  const positions = ropeOf(config)
  const kind =
    a.kind === 'mla'
      ? `mla, q-lora ${a.qLora ?? 'none'}`
      : `gqa ${a.heads}/${a.kvHeads} of ${a.headDim}, norm ${a.qkNorm}, clip ${a.clip}`
  const shared = moe.sharedWidth === 0 ? 'no shared' : moe.sharedGate ? 'gated shared' : 'shared'
  return `${kind}, ${positions.layout} rope ${positions.dim}, ${moe.router.score}, ${shared}${tied ? ', tied' : ''}`
}
