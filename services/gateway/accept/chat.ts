import { Template } from '@huggingface/jinja'
import { z } from 'zod'
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import { strftime } from './clock.ts'
import { parseFile, readOptional, tokenText } from './folder.ts'
import type { Chat } from './served.ts'

/** A model's chat template: Jinja sources by name, and the special tokens they may name (bos_token, eos_token, …). */
export type ChatTemplate = {
  default: string
  /** Takes the default's place when there are tools. */
  toolUse: string | null
  tokens: Readonly<Record<string, string>>
}

export type ChatOptions = {
  /** End with what opens the assistant's turn. */
  addGenerationPrompt: boolean
  tools?: readonly Record<string, unknown>[] | null
  /** What strftime_now tells; the present where it is left out. */
  now?: Date
}

const tokenNames = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'] as const

const configured = z.looseObject({
  chat_template: z.union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))]).nullish(),
  ...Object.fromEntries(tokenNames.map((name) => [name, tokenText])),
})

/**
 * The chat template of the model in `dir`: the file chat_template.jinja where there is one, else chat_template of
 * tokenizer_config.json, a string or a list with names ("default", "tool_use"); null without either.
 * @throws MeshError FAILED_PRECONDITION where tokenizer_config.json cannot be read or names no default.
 */
export const readChatTemplate = async (dir: string): Promise<ChatTemplate | null> => {
  const config = parseFile(
    'tokenizer_config.json',
    (await readOptional(dir, 'tokenizer_config.json')) ?? '{}',
    configured,
  )
  const listed = config.chat_template ?? []
  const named = new Map(
    typeof listed === 'string' ? [['default', listed]] : listed.map(({ name, template }) => [name, template]),
  )
  const file = await readOptional(dir, 'chat_template.jinja')
  if (file !== null) named.set('default', file)
  if (named.size === 0) return null
  const source = named.get('default')
  if (source === undefined) {
    const message = `tokenizer_config.json: chat_template has ${[...named.keys()].join(', ')} but no "default".`
    throw new MeshError(Code.FAILED_PRECONDITION, message)
  }
  const tokens = tokenNames.flatMap((name) => (typeof config[name] === 'string' ? [[name, config[name]]] : []))
  return { default: source, toolUse: named.get('tool_use') ?? null, tokens: Object.fromEntries(tokens) }
}

/** The library's own strftime_now speaks the host's language and knows few directives; trim_blocks takes the line break away. */
const preamble = '{% set strftime_now = expertmesh_strftime %}\n'

/**
 * The text that messages become, to be encoded without special tokens: the template writes them. Variables are those of
 * transformers' apply_chat_template.
 * @throws MeshError INVALID_ARGUMENT where there is no template, or it is broken or refuses the messages.
 */
export const renderChat = (
  template: ChatTemplate | null,
  messages: readonly Record<string, unknown>[],
  options: ChatOptions,
): string => {
  if (!template) throw invalid('This model has no chat template: use /v1/completions with a prompt.', 'messages')
  const tools = options.tools?.length ? options.tools : null
  const source = (tools && template.toolUse) || template.default
  try {
    return new Template(preamble + source).render({
      ...template.tokens,
      messages,
      tools,
      documents: null,
      add_generation_prompt: options.addGenerationPrompt,
      expertmesh_strftime: (format: string) => strftime(options.now ?? new Date(), format),
    })
  } catch (error) {
    const reason = (error as Error).message.replace(/\.$/, '')
    const message = `The model's chat template cannot be applied to these messages: ${reason}.`
    throw new MeshError(Code.INVALID_ARGUMENT, message, { cause: error, param: 'messages' })
  }
}

/** What the API needs of the chat template of the model in `dir`; null without one. Throws as readChatTemplate does. */
export const openChat = async (dir: string): Promise<Chat | null> => {
  const template = await readChatTemplate(dir)
  if (!template) return null
  return {
    render: (messages, options) => renderChat(template, messages, options),
    takesTools: template.toolUse !== null || /\btools\b/.test(template.default),
  }
}
