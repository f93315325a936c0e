/**
 * The canonical description of a model: a combination of a few independent axes. A family file (families/*.ts) maps a
 * checkpoint's config.json and tensor names to it; graph builders, caches, routers and the oracle read nothing else.
 *
 * Letters in shapes: T token rows, H hidden, I expert intermediate, E experts, K experts per token, L key length, V vocabulary.
 */

/** Rope frequency scaling; formulas in transformers' modeling_rope_utils.py. Every value is final: defaults are filled in by the family. */
export type RopeScaling =
  | { kind: 'none' }
  | { kind: 'linear'; factor: number }
  | { kind: 'dynamic'; factor: number; maxPositions: number }
  | {
      kind: 'yarn'
      factor: number
      originalPositions: number
      betaFast: number
      betaSlow: number
      truncate: boolean
      /** Multiplies cos and sin. */
      attentionFactor: number
    }
  | { kind: 'llama3'; factor: number; lowFactor: number; highFactor: number; originalPositions: number }

/** Rotary position embeddings (arXiv:2104.09864): queries and keys are turned by their positions. */
export type RopePositions = {
  kind: 'rope'
  /** half: pairs (x_i, x_{i+d/2}); interleaved: pairs (x_2i, x_2i+1). */
  layout: 'half' | 'interleaved'
  /** d, the number of rotated dimensions of a head (its first ones for gqa, the `rope` part for mla). */
  dim: number
  theta: number
  scaling: RopeScaling
}

/**
 * How a model tells positions apart. sinusoidal and learned add a row [H] to a token's embedding, that of position p + first for the
 * token at p; relative adds a number per head to q·k.
 */
export type Positions =
  | RopePositions
  /** Row [sin | cos] of position · 10000^(−j / divisor), j < H/2 (arXiv:1706.03762 §3.5 has divisor H/2 and interleaves the two halves). */
  | { kind: 'sinusoidal'; first: number; divisor: number }
  /** Rows of the tensor positions [rows, H], one for each stack. */
  | { kind: 'learned'; first: number; rows: number }
  /** The tensor positions [buckets, heads], one for each stack, at the bucket of (key − query); distances from maxDistance on share one (arXiv:1910.10683 §2.1). */
  | { kind: 'relative'; buckets: number; maxDistance: number }

/** Grouped-query attention; multi-head attention is kvHeads = heads. */
export type GqaAttention = {
  kind: 'gqa'
  heads: number
  kvHeads: number
  headDim: number
  /** Multiplies q·k before the softmax. */
  scale: number
  bias: { q: boolean; k: boolean; v: boolean; o: boolean }
  /** RMS norm of q and k before rope: over each head [headDim], over the whole projection [heads·headDim], or none. */
  qkNorm: 'none' | 'head' | 'full'
  /** q, k and v are clamped to ±clip after qkNorm and before rope (OLMoE clip_qkv). */
  clip: number | null
}

/** Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434 §2.1). Heads are [nope | rope]; the cache row is [kvLora | rope]. */
export type MlaAttention = {
  kind: 'mla'
  heads: number
  qLora: number | null
  kvLora: number
  nope: number
  rope: number
  valueDim: number
  /** Multiplies q·k before the softmax; holds yarn's mscale² where the family has it. */
  scale: number
  /** attention_bias of the checkpoint: biases on q.a, kv.a and o. */
  bias: boolean
  /** eps of the two inner norms (q.a.norm, kv.a.norm). */
  eps: number
}

export type Attention = GqaAttention | MlaAttention

/**
 * What an encoder's router drops (arXiv:2101.03961 §2.2). An expert takes so many of a sequence's assignments, first choices before
 * second ones and those in the order of rows; the others count, but are not computed. A decoder's row is routed by itself, as if each
 * were a step of its own, so nothing is ever dropped there.
 */
export type Capacity = {
  /** rows of a sequence an expert takes; share: ⌈share · the sequence's rows⌉. */
  limit: { rows: number } | { share: number }
  /** Renormalised weights are divided by the sum of what is left, not of all that was chosen. */
  dropFirst: boolean
}

export type Router = {
  /** s = softmax or sigmoid of x·Wᵀ, in fp32. */
  score: 'softmax' | 'sigmoid'
  /** Selection (never the weights) adds the tensor router.bias [E] to the scores. */
  bias: boolean
  /** Group-limited selection: only the `keep` best groups take part; a group's score is its max, or the sum of its two best. */
  groups: { count: number; keep: number; score: 'max' | 'top2' } | null
  /** Weights are divided by (their sum + epsilon). null: left as they are. */
  renormalise: { epsilon: number } | null
  /** Multiplies the weights last. */
  scale: number
  /** null: nothing is dropped. */
  capacity: Capacity | null
}

export type Moe = {
  experts: number
  topK: number
  /** I, the width of one routed expert. */
  width: number
  router: Router
  /** Width of the shared experts, fused into one FFN; 0 for none. */
  sharedWidth: number
  /** The shared experts' output is multiplied by sigmoid(x · shared.router). */
  sharedGate: boolean
}

/** An FFN is down(act(up·x)), or, gated, down(act(gate·x) * (up·x)) (arXiv:2002.05202). */
export type Ffn = {
  /** gelu: with erf; gelu_tanh: its approximation by tanh. */
  activation: 'silu' | 'relu' | 'gelu' | 'gelu_tanh'
  gated: boolean
  /** up and down carry a bias; not where gated. */
  bias: boolean
}

/** What makes a model an encoder–decoder (arXiv:1706.03762 §3.1). */
export type Encoder = {
  /** The first of the model's layers see a source both ways; those after them see its last rows too (cross-attention). */
  layers: number
  /** decoder_start_token_id: the decoder's first row, before any token is generated. */
  start: number
  /** The first token generated, whatever the logits say. */
  forcedFirst: number | null
  /** The last token of an output that reaches its greatest length; ends: it is one of the ids that end a sequence. */
  forcedLast: { id: number; ends: boolean } | null
  /** Ids never generated. */
  suppressed: readonly number[]
  /** Ids never generated first. */
  suppressedFirst: readonly number[]
}

export type ModelConfig = {
  /** model_type of the checkpoint. */
  family: string
  vocabulary: number
  hidden: number
  /** Longest prompt + output, in tokens; with an encoder, longest source and longest output, each. */
  contextLength: number
  /**
   * rms (arXiv:1910.07467), or layer (arXiv:1607.06450), which carries biases. pre: x + f(norm(x)), and a norm after the last layer of
   * a stack; post: norm(x + f(x)).
   */
  norm: { kind: 'rms' | 'layer'; placement: 'pre' | 'post'; eps: number }
  /** Embeddings are multiplied by scale, positions are added, and a norm follows or none. */
  embedding: { scale: number; norm: boolean }
  positions: Positions
  attention: Attention
  ffn: Ffn
  /** Width of the FFN of dense layers. */
  denseWidth: number
  moe: Moe
  /** null: a decoder alone. */
  encoder: Encoder | null
  /** One entry per layer of the whole model, an encoder's before the decoder's. window: a token sees itself and the window − 1 tokens before it; null: all of them. */
  layers: readonly { ffn: 'dense' | 'sparse'; window: number | null }[]
  /** The head reads the embedding table. */
  tied: boolean
  /** Logits are scale · (head·x), plus the tensor head.bias or none. */
  head: { scale: number; bias: boolean }
  bos: number | null
  /** Every id that ends a sequence, generation_config.json's before config.json's. */
  eos: readonly number[]
}

/** Names of a layer's tensors in canonical form, with shapes; which of them exist follows from the config. All [out, in]. */
export type LayerTensor =
  | 'attention.norm' // [H]
  | 'attention.norm.bias' // [H], as every norm's bias
  | 'attention.q' // gqa [heads·headDim, H]; mla without q-lora [heads·(nope+rope), H]
  | 'attention.q.bias'
  | 'attention.k' // [kvHeads·headDim, H]
  | 'attention.k.bias'
  | 'attention.v' // [kvHeads·headDim, H]
  | 'attention.v.bias'
  | 'attention.o' // [H, heads·headDim]; mla [H, heads·valueDim]
  | 'attention.o.bias'
  | 'attention.q.norm' // [headDim] or [heads·headDim]
  | 'attention.k.norm' // [headDim] or [kvHeads·headDim]
  | 'attention.q.a' // [qLora, H]
  | 'attention.q.a.bias'
  | 'attention.q.a.norm' // [qLora]
  | 'attention.q.b' // [heads·(nope+rope), qLora]
  | 'attention.kv.a' // [kvLora+rope, H]
  | 'attention.kv.a.bias'
  | 'attention.kv.a.norm' // [kvLora]
  | 'attention.kv.b' // [heads·(nope+valueDim), kvLora], per head [nope | value]
  | 'cross.norm' // [H]
  | 'cross.norm.bias'
  | CrossTensor
  | 'ffn.norm' // [H]
  | 'ffn.norm.bias'
  | 'shared.gate' // [denseWidth | sharedWidth, H]: a dense layer's FFN is its shared expert
  | 'shared.up' // as shared.gate
  | 'shared.up.bias'
  | 'shared.down' // [H, denseWidth | sharedWidth]
  | 'shared.down.bias'
  | 'shared.router' // [1, H]
  | 'router' // [E, H]
  | 'router.bias' // [E]
/** Attention of a decoder's rows to the encoder's: shaped as the layer's own. */
export type CrossTensor = `cross.${'q' | 'k' | 'v' | 'o'}${'' | '.bias'}`
/** Tensors that encoder and decoder each have of their own. */
export type StackTensor = 'positions' | 'embed.norm' | 'embed.norm.bias' | 'norm' | 'norm.bias' // [rows,H] | [buckets,heads], [H] …
export type ModelTensor = 'embed' | StackTensor | `encoder.${StackTensor}` | 'head' | 'head.bias' // [V,H] … [V,H] [1,V]
export type ExpertTensor = 'gate' | 'up' | 'up.bias' | 'down' | 'down.bias' // [I,H] [I,H] [I] [H,I] [H]

/** Where a canonical tensor lies in a checkpoint: a named tensor of that exact shape, or rows [begin, end) of it, flattened to [rows, last dimension]. */
export type Source = { name: string; shape: readonly number[]; rows?: { begin: number; end: number } }

/** Maps canonical names to checkpoint tensors. A name the config does not call for throws (broken invariant). */
export type WeightMap = {
  model(name: ModelTensor): Source
  layer(layer: number, name: LayerTensor): Source
  expert(layer: number, expert: number, name: ExpertTensor): Source
}

/**
 * The form of a model's matrices and of the rows that its experts take. fp32 is the reference; int8 quantises rows, and weights by
 * output channel; int4 keeps rows as floats and quantises weights in blocks along an output channel, each with a scale of its own.
 */
export const PRECISIONS = ['fp32', 'int8', 'int4'] as const
export type Precision = (typeof PRECISIONS)[number]
