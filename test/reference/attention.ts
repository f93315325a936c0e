import type { GqaAttention, LayerTensor, MlaAttention, RopePositions } from '../../shared/model/config.ts'
import { dot, linear } from './linear.ts'
import { rmsNorm } from './norm.ts'
import { rotate, type Turn } from './rope.ts'

/** Keys and values of one layer, a row per position: [kvHeads·keyDim] and [kvHeads·valueDim], keys already rotated. */
export type KeyValues = { keys: Float32Array[]; values: Float32Array[] }

/** A tensor of the layer at hand; undefined where the config calls for none. */
export type Tensors = Partial<Record<LayerTensor, Float32Array>>

type Heads = { heads: number; kvHeads: number; keyDim: number; valueDim: number; scale: number }

/** Which keys a query sees: causal, those up to its own position (the last `window` of them); else all. */
export type Sight = {
  causal: boolean
  window: number | null
  /** Added to scale · q·k. */
  bias: ((head: number, query: number, key: number) => number) | null
}

/**
 * softmax(scale · q·k + bias) v for each head of one query row q [heads·keyDim] over positions begin…end−1 → [heads·valueDim].
 * Query head h reads key head ⌊h · kvHeads / heads⌋ (arXiv:2305.13245).
 */
const attendRow = (
  q: Float32Array,
  past: KeyValues,
  { begin, end }: { begin: number; end: number },
  shape: Heads,
  bias: (head: number, key: number) => number,
): Float32Array => {
  const { heads, kvHeads, keyDim, valueDim, scale } = shape
  const out = new Float32Array(heads * valueDim)
  for (let head = 0; head < heads; head++) {
    const kv = Math.floor((head * kvHeads) / heads)
    const scores = past.keys
      .slice(begin, end)
      .map((key, i) => scale * dot(q, head * keyDim, key, kv * keyDim, keyDim) + bias(head, begin + i))
    const top = scores.reduce((a, b) => Math.max(a, b))
    const powers = scores.map((score) => Math.exp(score - top))
    const sum = powers.reduce((a, b) => a + b)
    for (let i = 0; i < valueDim; i++) {
      let value = 0
      for (let at = begin; at < end; at++) value += powers[at - begin] * past.values[at][kv * valueDim + i]
      out[head * valueDim + i] = value / sum
    }
  }
  return out
}

/** Attention of the rows q [T, heads·keyDim]; where order matters, they are the last T positions of `past`. → [T, heads·valueDim]. */
export const attendRows = (q: Float32Array, past: KeyValues, shape: Heads, sight: Sight): Float32Array => {
  const width = shape.heads * shape.keyDim
  const rows = q.length / width
  const first = past.keys.length - rows
  const out = new Float32Array(rows * shape.heads * shape.valueDim)
  for (let row = 0; row < rows; row++) {
    const end = sight.causal ? first + row + 1 : past.keys.length
    const begin = sight.window === null ? 0 : Math.max(end - sight.window, 0)
    const bias = (head: number, key: number) => sight.bias?.(head, first + row, key) ?? 0
    const result = attendRow(q.subarray(row * width, (row + 1) * width), past, { begin, end }, shape, bias)
    out.set(result, row * result.length)
  }
  return out
}

/** Rotates, in each of the heads of `width` values, the part that starts at `offset`. x [T, heads·width]. */
const rotateHeads = (
  x: Float32Array,
  heads: number,
  width: number,
  offset: number,
  turns: Turn[],
  layout: RopePositions['layout'],
) =>
  turns.forEach((turn, row) => {
    for (let head = 0; head < heads; head++) rotate(x, (row * heads + head) * width + offset, turn, layout)
  })

const pushRows = (rows: Float32Array[], x: Float32Array, width: number): void => {
  for (let at = 0; at < x.length; at += width) rows.push(x.slice(at, at + width))
}

/** What a layer's attention reads besides its weights: x [T,H], `turns` of its T rows (none where positions are not rope), and the rows before them. */
export type AttentionInput = {
  x: Float32Array
  hidden: number
  turns: Turn[]
  layout: RopePositions['layout']
  sight: Sight
  /** The T new rows are appended. */
  past: KeyValues
}

/** Grouped-query attention. eps is the model's. → [T,H], before the residual. */
export const gqa = (attention: GqaAttention, tensors: Tensors, eps: number, input: AttentionInput): Float32Array => {
  const { heads, kvHeads, headDim } = attention
  const { x, hidden, turns, layout, past } = input
  const { clip } = attention
  const clamp = (y: Float32Array) => (clip === null ? y : y.map((value) => Math.min(Math.max(value, -clip), clip)))
  const projected = (name: 'q' | 'k' | 'v') =>
    linear(x, tensors[`attention.${name}`]!, hidden, tensors[`attention.${name}.bias`])
  // A norm over the whole projection and one over each head differ only in the length of their weight.
  const normed = (name: 'q' | 'k') =>
    attention.qkNorm === 'none' ? projected(name) : rmsNorm(projected(name), tensors[`attention.${name}.norm`]!, eps)
  const q = clamp(normed('q'))
  const k = clamp(normed('k'))
  rotateHeads(q, heads, headDim, 0, turns, layout)
  rotateHeads(k, kvHeads, headDim, 0, turns, layout)
  pushRows(past.keys, k, kvHeads * headDim)
  pushRows(past.values, clamp(projected('v')), kvHeads * headDim)
  const shape = { heads, kvHeads, keyDim: headDim, valueDim: headDim, scale: attention.scale }
  return linear(
    attendRows(q, past, shape, input.sight),
    tensors['attention.o']!,
    heads * headDim,
    tensors['attention.o.bias'],
  )
}

/**
 * Multi-head latent attention in its expanded form: every head's keys and values are computed from the latent row and kept
 * (arXiv:2405.04434 §2.1, equations 37–47). → [T,H], before the residual.
 */
export const mla = (attention: MlaAttention, tensors: Tensors, input: AttentionInput): Float32Array => {
  const { heads, qLora, kvLora, nope, rope, valueDim, eps } = attention
  const { x, hidden, turns, layout, past } = input
  const q = qLora === null ? linear(x, tensors['attention.q']!, hidden) : queries(qLora)
  rotateHeads(q, heads, nope + rope, nope, turns, layout)

  const latent = linear(x, tensors['attention.kv.a']!, hidden, tensors['attention.kv.a.bias'])
  turns.forEach((turn, row) => {
    const c = latent.subarray(row * (kvLora + rope), (row + 1) * (kvLora + rope))
    rotate(c, kvLora, turn, layout)
    const kv = linear(
      rmsNorm(c.slice(0, kvLora), tensors['attention.kv.a.norm']!, eps),
      tensors['attention.kv.b']!,
      kvLora,
    )
    const key = new Float32Array(heads * (nope + rope))
    const value = new Float32Array(heads * valueDim)
    for (let head = 0; head < heads; head++) {
      const at = head * (nope + valueDim)
      key.set(kv.subarray(at, at + nope), head * (nope + rope))
      key.set(c.subarray(kvLora), head * (nope + rope) + nope)
      value.set(kv.subarray(at + nope, at + nope + valueDim), head * valueDim)
    }
    past.keys.push(key)
    past.values.push(value)
  })
  const shape = { heads, kvHeads: heads, keyDim: nope + rope, valueDim, scale: attention.scale }
  return linear(
    attendRows(q, past, shape, input.sight),
    tensors['attention.o']!,
    heads * valueDim,
    tensors['attention.o.bias'],
  )

  function queries(width: number): Float32Array {
    const a = linear(x, tensors['attention.q.a']!, hidden, tensors['attention.q.a.bias'])
    return linear(rmsNorm(a, tensors['attention.q.a.norm']!, eps), tensors['attention.q.b']!, width)
  }
}

/** Keys and values of an encoder's rows [L,H], as a decoder layer's cross-attention sees them. */
export const crossKeys = (
  { kvHeads, headDim }: GqaAttention,
  tensors: Tensors,
  rows: Float32Array,
  hidden: number,
): KeyValues => {
  const seen: KeyValues = { keys: [], values: [] }
  pushRows(seen.keys, linear(rows, tensors['cross.k']!, hidden, tensors['cross.k.bias']), kvHeads * headDim)
  pushRows(seen.values, linear(rows, tensors['cross.v']!, hidden, tensors['cross.v.bias']), kvHeads * headDim)
  return seen
}

/** Attention of a decoder's rows x [T,H] to an encoder's, whose order is no matter. → [T,H], before the residual. */
export const cross = (
  { heads, kvHeads, headDim, scale }: GqaAttention,
  tensors: Tensors,
  x: Float32Array,
  hidden: number,
  seen: KeyValues,
): Float32Array => {
  const q = linear(x, tensors['cross.q']!, hidden, tensors['cross.q.bias'])
  const shape = { heads, kvHeads, keyDim: headDim, valueDim: headDim, scale }
  const mixed = attendRows(q, seen, shape, { causal: false, window: null, bias: null })
  return linear(mixed, tensors['cross.o']!, heads * headDim, tensors['cross.o.bias'])
}
