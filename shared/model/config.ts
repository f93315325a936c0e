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

export type Positions = {
  kind: 'rope'
  /** half: pairs (x_i, x_{i+d/2}); interleaved: pairs (x_2i, x_2i+1). */
  layout: 'half' | 'interleaved'
  /** d, the number of rotated dimensions of a head (its first ones for gqa, the `rope` part for mla). */
  dim: number
  theta: number
  scaling: RopeScaling
}

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

export type ModelConfig = {
  /** model_type of the checkpoint. */
  family: string
  vocabulary: number
  hidden: number
  /** Longest prompt + output, in tokens. */
  contextLength: number
  norm: { kind: 'rms'; placement: 'pre'; eps: number }
  positions: Positions
  attention: Attention
  /** FFNs are down(silu(gate·x) * (up·x)). */
  activation: 'silu'
  /** Width of the FFN of dense layers. */
  denseWidth: number
  moe: Moe
  /** One entry per layer. window: a token sees itself and the window − 1 tokens before it; null: all of them. */
  layers: readonly { ffn: 'dense' | 'sparse'; window: number | null }[]
  /** The head reads the embedding table. */
  tied: boolean
  bos: number | null
  /** Every id that ends a sequence, generation_config.json's before config.json's. */
  eos: readonly number[]
}

/** Names of a layer's tensors in canonical form, with shapes; which of them exist follows from the config. All [out, in]. */
export type LayerTensor =
  | 'attention.norm' // [H]
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
  | 'ffn.norm' // [H]
  | 'shared.gate' // [denseWidth | sharedWidth, H]: a dense layer's FFN is its shared expert
  | 'shared.up' // as shared.gate
  | 'shared.down' // [H, denseWidth | sharedWidth]
  | 'shared.router' // [1, H]
  | 'router' // [E, H]
  | 'router.bias' // [E]
export type ModelTensor = 'embed' | 'norm' | 'head' // [V,H] [H] [V,H]
export type ExpertTensor = 'gate' | 'up' | 'down' // [I,H] [I,H] [H,I]

/** Where a canonical tensor lies in a checkpoint: a named tensor of that exact shape, or rows [begin, end) of it, flattened to [rows, last dimension]. */
export type Source = { name: string; shape: readonly number[]; rows?: { begin: number; end: number } }

/** Maps canonical names to checkpoint tensors. A name the config does not call for throws (broken invariant). */
export type WeightMap = {
  model(name: ModelTensor): Source
  layer(layer: number, name: LayerTensor): Source
  expert(layer: number, expert: number, name: ExpertTensor): Source
}

/** A row's bytes on the wire and in shards. fp32 is the reference; int8 is quantised per row, weights per output channel. */
export type Precision = 'fp32' | 'int8'
