import type { RopePositions, RopeScaling } from '../config.ts'
import type { Keys } from './keys.ts'

export type RopeSettings = {
  positions: RopePositions
  contextLength: number
  /** Multiplies the attention scale: DeepSeek's mscale², 1 elsewhere. */
  attentionScale: number
}

/** YaRN's attention temperature (arXiv:2309.00071 §3.4) with DeepSeek's weight m. */
const temperature = (factor: number, m: number): number => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1)

/**
 * Rope of a config.json: rope_theta beside rope_scaling ("type" or "rope_type"), or transformers 5's rope_parameters,
 * which holds both. Formulas and defaults: transformers' modeling_rope_utils.py.
 *
 * The context length is what the positions reach: max_position_embeddings, times the factor for linear and dynamic,
 * whose configs keep the length of training there; for yarn, whose configs differ, the greater of
 * max_position_embeddings and factor × original length.
 */
export const readRope = (
  keys: Keys,
  { dim, layout, theta }: { dim: number; layout: RopePositions['layout']; theta: number },
): RopeSettings => {
  if (dim % 2 !== 0)
    throw keys.refuse(
      keys.has('qk_rope_head_dim') ? 'qk_rope_head_dim' : 'head_dim',
      'but rope turns pairs: it must be even',
    )
  const newer = keys.object('rope_parameters')
  const raw = newer ?? keys.object('rope_scaling')
  for (const place of [keys, ...(raw ? [raw] : [])])
    if (place.number('partial_rotary_factor', 1) !== 1)
      throw place.refuse('partial_rotary_factor', 'but only 1 is supported: every dimension of a head is rotated')
  const base = newer?.has('rope_theta') ? newer.number('rope_theta') : keys.number('rope_theta', theta)
  if (base <= 0) throw (newer?.has('rope_theta') ? newer : keys).refuse('rope_theta', 'but a number above 0 is needed')
  const trained = keys.count('max_position_embeddings')
  const scaling = raw ? readScaling(raw, trained) : ({ kind: 'none' } as const)
  return {
    positions: { kind: 'rope', layout, dim, theta: base, scaling },
    contextLength: reach(scaling, trained),
    attentionScale: raw && scaling.kind !== 'none' ? readAttentionScale(raw, scaling) : 1,
  }
}

const reach = (scaling: RopeScaling, trained: number): number => {
  if (scaling.kind === 'linear' || scaling.kind === 'dynamic') return Math.floor(trained * scaling.factor)
  if (scaling.kind === 'yarn') return Math.max(trained, Math.floor(scaling.originalPositions * scaling.factor))
  return trained
}

const kinds = ['default', 'linear', 'dynamic', 'yarn', 'llama3'] as const

const readScaling = (raw: Keys, trained: number): RopeScaling => {
  const kind = raw.word(raw.has('rope_type') ? 'rope_type' : 'type', kinds, 'default')
  if (kind === 'default') return { kind: 'none' }
  const original = raw.count('original_max_position_embeddings', trained)
  const factor = kind === 'yarn' ? raw.number('factor', trained / original) : raw.number('factor')
  if (factor < 1) throw raw.refuse('factor', 'but a number of at least 1 is needed')
  switch (kind) {
    case 'linear':
      return { kind, factor }
    case 'dynamic':
      if (raw.has('alpha')) throw raw.refuse('alpha', 'but dynamic scaling is supported by factor alone')
      return { kind, factor, maxPositions: trained }
    case 'yarn':
      return {
        kind,
        factor,
        originalPositions: original,
        betaFast: raw.number('beta_fast', 32),
        betaSlow: raw.number('beta_slow', 1),
        truncate: raw.flag('truncate', true),
        attentionFactor: readAttentionFactor(raw, factor),
      }
    case 'llama3': {
      const [lowFactor, highFactor] = [raw.number('low_freq_factor'), raw.number('high_freq_factor')]
      if (highFactor <= lowFactor) throw raw.refuse('high_freq_factor', 'but it must exceed low_freq_factor')
      return { kind, factor, lowFactor, highFactor, originalPositions: raw.count('original_max_position_embeddings') }
    }
  }
}

const readAttentionFactor = (raw: Keys, factor: number): number => {
  if (raw.has('attention_factor')) return raw.number('attention_factor')
  const [m, all] = [raw.number('mscale', 0), raw.number('mscale_all_dim', 0)]
  return m && all ? temperature(factor, m) / temperature(factor, all) : temperature(factor, 1)
}

/** DeepSeek-V2 and V3 (modeling_deepseek.py): softmax scale × mscale², for the mscale of all dimensions. */
const readAttentionScale = (raw: Keys, scaling: RopeScaling): number => {
  const all = raw.number('mscale_all_dim', 0)
  return all && 'factor' in scaling ? temperature(scaling.factor, all) ** 2 : 1
}
