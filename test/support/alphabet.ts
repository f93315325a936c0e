import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openChat } from '../../services/gateway/accept/chat.ts'
import { readSamplingDefaults, type Served } from '../../services/gateway/accept/served.ts'
import { openTokenizer } from '../../services/gateway/accept/tokenizer.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { writeCheckpoint } from './checkpoint.ts'
import { floatsIn } from './safetensors.ts'

/**
 * A checkpoint that says the alphabet, so that texts can be foretold: real weights, one token per UTF-8 byte. After "z" come "é",
 * "€" and "a"; after a digit the next one, and after 9 the end; any other byte is followed by itself.
 */
const circle = [...Buffer.from('abcdefghijklmnopqrstuvwxyzé€')]
export const bos = 256
export const eos = 257
const vocabulary = 258
const hidden = 264
/** How far the right answer stands out of the noise that attention and experts add: certain at any temperature up to 1. */
const embedded = 20
const headed = 4
/** The largest cache of one test is far smaller. */
const longest = 2 ** 20
/** What the API is told unless a test needs a long output: its limits are soon met. */
const contextLength = 64

const config = {
  model_type: 'mixtral',
  vocab_size: vocabulary,
  hidden_size: hidden,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  num_key_value_heads: 1,
  head_dim: 8,
  num_local_experts: 4,
  num_experts_per_tok: 2,
  max_position_embeddings: longest,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  hidden_act: 'silu',
  eos_token_id: eos,
}

const after = (id: number): number => {
  const at = circle.indexOf(id)
  if (at >= 0) return circle[(at + 1) % circle.length]
  if (id === bos) return circle[0]
  const digit = String.fromCharCode(id)
  if (digit === '9') return eos
  return digit >= '0' && digit < '9' ? id + 1 : id
}

/** GPT-2's stand-ins for bytes (openai/gpt-2, encoder.py): printable ones are themselves, the others follow from U+0100. */
const pieces = (): string[] => {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173)
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++))
}

const special = (id: number, content: string) => {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  return { id, content, ...flags }
}

const tokenizer = () => {
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: true }
  const vocab = Object.fromEntries(pieces().map((piece, byte) => [piece, byte]))
  return {
    version: '1.0',
    added_tokens: [special(bos, '<s>'), special(eos, '</s>')],
    normalizer: null,
    pre_tokenizer: level,
    post_processor: level,
    decoder: level,
    model: { type: 'BPE', vocab, merges: [] },
  }
}

const tokenizerConfig = {
  bos_token: '<s>',
  eos_token: '</s>',
  add_bos_token: true,
  chat_template: '{% for message in messages %}{{ message.content }}{% endfor %}',
}

/** Writes the model's folder. */
export const writeAlphabet = async (dir: string): Promise<void> => {
  await writeCheckpoint(dir, config, { scale: 0.02 })
  const path = join(dir, 'model.safetensors')
  const file = await readFile(path)
  const values = (name: string): Float32Array => floatsIn(file, name)
  const [embed, head] = [values('model.embed_tokens.weight'), values('lm_head.weight')]
  for (let id = 0; id < vocabulary; id++) {
    embed[id * hidden + id] = embedded
    head[after(id) * hidden + id] = headed
  }
  await writeFile(path, file)
  const json = (name: string, value: object) => writeFile(join(dir, name), JSON.stringify(value))
  await json('tokenizer.json', tokenizer())
  await json('tokenizer_config.json', tokenizerConfig)
  await json('generation_config.json', { do_sample: true, temperature: 0.7, top_k: 40 })
}

/** The model in a folder as the API sees it, with a short context. */
export const describeServed = async (dir: string): Promise<Served> => {
  const model = await openModel(dir)
  const hash = await modelHash(model, 'fp32', dir)
  await model.close()
  return {
    name: 'alphabet',
    hash,
    precision: 'fp32',
    numericClass: 'of these tests',
    created: 1_700_000_000,
    config: { ...model.config, contextLength },
    defaults: await readSamplingDefaults(dir),
    room: { sequences: 64, cacheBlocks: 64, blockRows: 128 },
    tokenizer: await openTokenizer(dir),
    chat: await openChat(dir),
  }
}

/** A fresh folder with the model in it, and what takes it away. */
export const alphabetFolder = async (): Promise<{ dir: string; remove(): Promise<void> }> => {
  const dir = await mkdtemp(join(tmpdir(), 'expertmesh-alphabet-'))
  await writeAlphabet(dir)
  return { dir, remove: () => rm(dir, { recursive: true }) }
}

/** The model as the API sees it, where no engine is needed; without a chat template. */
export const readAlphabet = async (): Promise<Served> => {
  const { dir, remove } = await alphabetFolder()
  const served = await describeServed(dir)
  await remove()
  return { ...served, chat: null }
}
