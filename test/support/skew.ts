import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeCheckpoint } from './checkpoint.ts'
import { tinyConfigs } from './configs.ts'
import { gaussian } from './numbers.ts'
import { floatsIn } from './safetensors.ts'

export type SkewOptions = {
  experts: number
  topK: number
  hidden: number
  width: number
  /** Exponent of Zipf's law: expert e of every layer is chosen in proportion to 1 ÷ (e + 1)^s. */
  s: number
}

/** One dense layer, then sparse ones. */
const LAYERS = 3
export const sparseLayers: readonly number[] = [1, 2]
export const vocabulary = 512

/** A random model of DeepSeek-V3's kind whose routers prefer experts as Zipf's law has it: expert 0 most, by their biases. */
export const writeSkewed = async (dir: string, { experts, topK, hidden, width, s }: SkewOptions): Promise<void> => {
  await writeCheckpoint(dir, {
    ...tinyConfigs.kimi_k2,
    vocab_size: vocabulary,
    hidden_size: hidden,
    moe_intermediate_size: width,
    num_hidden_layers: LAYERS,
    n_routed_experts: experts,
    num_experts_per_tok: topK,
    n_shared_experts: 0,
    max_position_embeddings: 1024,
  })
  const path = join(dir, 'model.safetensors')
  const file = await readFile(path)
  const biases = biasesFor(zipf(experts, s), topK)
  for (const layer of sparseLayers) floatsIn(file, `model.layers.${layer}.mlp.gate.e_score_correction_bias`).set(biases)
  await writeFile(path, file)
}

/** Shares of all choices, descending. */
export const zipf = (experts: number, s: number): number[] => {
  const weights = Array.from({ length: experts }, (_, expert) => (expert + 1) ** -s)
  const total = weights.reduce((sum, weight) => sum + weight)
  return weights.map((weight) => weight / total)
}

/** The exponent that fits shares of experts in the order of their preference: least squares over the logarithms. */
export const exponentOf = (shares: readonly number[]): number => {
  const points = shares.flatMap((share, i) => (share > 0 ? [[Math.log(i + 1), Math.log(share)]] : []))
  const mean = (of: 0 | 1): number => points.reduce((sum, point) => sum + point[of], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const covariance = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0)
  return -covariance / points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0)
}

/** Deviation of the logits of random routers over normed rows. */
const LOGIT_DEVIATION = 2
const TRIALS = 4_000
const PASSES = 150
const RATE = 0.06

/** Biases with which rows whose logits are normal choose experts in these shares: found by trying. */
const biasesFor = (shares: readonly number[], topK: number): number[] => {
  const normal = gaussian(7)
  const scores = Array.from({ length: TRIALS }, () => shares.map(() => 1 / (1 + Math.exp(-LOGIT_DEVIATION * normal()))))
  const biases = shares.map(() => 0)
  for (let pass = 0; pass < PASSES; pass++) {
    const chosen = shares.map(() => 0.5)
    for (const row of scores) {
      const biased = row.map((score, expert) => score + biases[expert])
      const order = [...biased.keys()].sort((a, b) => biased[b] - biased[a])
      for (const expert of order.slice(0, topK)) chosen[expert]++
    }
    for (const [expert, share] of shares.entries())
      biases[expert] += RATE * Math.log((share * topK * TRIALS) / chosen[expert])
  }
  return biases
}
