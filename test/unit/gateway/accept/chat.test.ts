import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ChatTemplate, openChat, readChatTemplate, renderChat } from '../../../../services/gateway/accept/chat.ts'
import { Code } from '../../../../shared/errors.ts'

const chatMl = `{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' -}}
{% endif %}`

const template = (source: string, more: Partial<ChatTemplate> = {}): ChatTemplate => ({
  default: source,
  toolUse: null,
  tokens: {},
  ...more,
})
const messages = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'Hi <there> & "you"' },
]

describe('a chat template', () => {
  it('turns messages into ChatML', () => {
    const turns = '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <there> & "you"<|im_end|>\n'
    expect(renderChat(template(chatMl), messages, { addGenerationPrompt: true })).toBe(
      `${turns}<|im_start|>assistant\n`,
    )
    expect(renderChat(template(chatMl), messages, { addGenerationPrompt: false })).toBe(turns)
  })

  it('may name special tokens, tools and the date', () => {
    const source =
      "\n{{ bos_token }}{{ strftime_now('%d %b %Y, %-d %A %H:%M:%S %I %p %%') }} {{ tools | tojson }}{{ eos_token }}"
    const options = { addGenerationPrompt: false, tools: [{ name: 'f<g>' }], now: new Date(2024, 4, 3, 16, 5, 9) }
    expect(renderChat(template(source, { tokens: { bos_token: '<s>' } }), messages, options)).toBe(
      '\n<s>03 May 2024, 3 Friday 16:05:09 04 PM % [{"name": "f<g>"}]',
    )
  })

  it('uses the tool template only where there are tools', () => {
    const both = template('plain', { toolUse: 'tools: {{ tools[0].name }}' })
    expect(renderChat(both, messages, { addGenerationPrompt: false, tools: [{ name: 'f' }] })).toBe('tools: f')
    expect(renderChat(both, messages, { addGenerationPrompt: false, tools: [] })).toBe('plain')
  })

  it.each([
    ['refuses the messages', "{{ raise_exception('Roles must alternate') }}", 'Roles must alternate'],
    ['is broken', '{% for m in messages %}{{ m', 'Unexpected end of input'],
    ['calls what does not exist', '{{ nothing(1) }}', 'Cannot call'],
    ['calls an unknown filter', '{{ messages | shout }}', 'shout'],
  ])('that %s is an INVALID_ARGUMENT sentence', (_, source, reason) => {
    const call = () => renderChat(template(source), messages, { addGenerationPrompt: true })
    expect(call).toThrow(expect.objectContaining({ code: Code.INVALID_ARGUMENT, param: 'messages' }))
    expect(call).toThrow(/^The model's chat template cannot be applied to these messages: .+\.$/)
    expect(call).toThrow(reason)
  })

  it('that does not exist points to completions', () => {
    const call = () => renderChat(null, messages, { addGenerationPrompt: true })
    expect(call).toThrow(expect.objectContaining({ code: Code.INVALID_ARGUMENT }))
    expect(call).toThrow('/v1/completions')
  })
})

describe("a model folder's chat template", () => {
  let dir: string
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'expertmesh-chat-'))
  })
  afterEach(() => rm(dir, { recursive: true }))
  const config = (json: object) => writeFile(join(dir, 'tokenizer_config.json'), JSON.stringify(json))

  it('is a string of tokenizer_config.json, with its tokens', async () => {
    await config({ chat_template: chatMl, bos_token: { content: '<s>' }, eos_token: '</s>', pad_token: null })
    expect(await readChatTemplate(dir)).toEqual(template(chatMl, { tokens: { bos_token: '<s>', eos_token: '</s>' } }))
  })

  it('is a list with names, and needs a default', async () => {
    const list = [
      { name: 'default', template: 'd' },
      { name: 'tool_use', template: 't' },
    ]
    await config({ chat_template: list })
    expect(await readChatTemplate(dir)).toEqual(template('d', { toolUse: 't' }))
    await config({ chat_template: list.slice(1) })
    await expect(readChatTemplate(dir)).rejects.toMatchObject({ code: Code.FAILED_PRECONDITION })
  })

  it('is chat_template.jinja before anything else', async () => {
    await config({ chat_template: 'config' })
    await writeFile(join(dir, 'chat_template.jinja'), 'file')
    expect((await readChatTemplate(dir))?.default).toBe('file')
  })

  it('may be missing', async () => {
    expect(await openChat(dir)).toBeNull()
    await config({})
    expect(await openChat(dir)).toBeNull()
  })

  it('says whether it takes tools', async () => {
    await config({ chat_template: chatMl })
    expect((await openChat(dir))?.takesTools).toBe(false)
    await config({ chat_template: '{% if tools %}{{ tools }}{% endif %}' })
    const chat = await openChat(dir)
    expect(chat?.takesTools).toBe(true)
    expect(chat?.render(messages, { addGenerationPrompt: true, tools: null })).toBe('')
  })
})
