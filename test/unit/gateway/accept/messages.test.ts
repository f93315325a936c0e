import { describe, expect, it } from 'vitest'
import { acceptChat } from '../../../../services/gateway/accept/request.ts'
import type { Chat, Served } from '../../../../services/gateway/accept/served.ts'
import { Code } from '../../../../shared/errors.ts'
import { readAlphabet } from '../../../support/alphabet.ts'
import { refusal } from '../../../support/refusal.ts'

const plain = await readAlphabet()

const chatTemplate: Chat = {
  takesTools: false,
  render: (messages, { addGenerationPrompt }) =>
    messages.map(({ role, content }) => `${role}:${content}|`).join('') + (addGenerationPrompt ? '>' : ''),
}
const talking: Served = { ...plain, chat: chatTemplate }
const user = [{ role: 'user', content: 'hi' }]
const chat = (body: object, served: Served = talking) => acceptChat(served, { messages: user, ...body }, 'x')

describe('a chat', () => {
  it('is rendered and tokenized without adding special tokens again', () => {
    const [request] = chat({}).requests
    expect(Buffer.from(request.prompt as number[]).toString()).toBe('user:hi|>')
    const content = ['hi', 'you'].map((text) => ({ type: 'text', text }))
    const [parts] = chat({ messages: [{ role: 'user', content }] }).requests
    expect(Buffer.from(parts.prompt as number[]).toString()).toBe('user:hi\nyou|>')
  })

  it('needs a template', () => {
    const error = refusal(() => chat({}, plain))
    expect(error).toMatchObject({ code: Code.INVALID_ARGUMENT, param: 'messages' })
    expect(error.message).toContain('chat template')
  })

  it.each([
    [{ messages: [] }, 'messages'],
    [{ messages: 'hi' }, 'messages'],
    [{ messages: [{ content: 'hi' }] }, 'messages.0.role'],
    [{ messages: [{ role: 'user', content: 5 }] }, 'messages.0.content'],
    [{ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] }, 'messages.0.content'],
    [{ functions: [{}] }, 'functions'],
    [{ tools: [{ type: 'function' }] }, 'tools'],
    [{ response_format: { type: 'json_object' } }, 'response_format'],
  ])('%j is refused', (body, param) => {
    expect(refusal(() => chat(body))).toMatchObject({ code: Code.INVALID_ARGUMENT, param })
  })

  it('takes tools only where the template does, and never forces one', () => {
    const tools = [{ type: 'function', function: { name: 'f' } }]
    const handy: Served = {
      ...plain,
      chat: { takesTools: true, render: (_, { tools }) => `${tools?.length ?? 'none'}` },
    }
    const prompt = (body: object) => Buffer.from(chat(body, handy).requests[0].prompt as number[]).toString()
    expect(prompt({ tools })).toBe('1')
    expect(prompt({ tools, tool_choice: 'none' })).toBe('none')
    expect(refusal(() => chat({ tools, tool_choice: 'required' }, handy))).toMatchObject({ param: 'tool_choice' })
    expect(chat({ tools: [] }).requests).toHaveLength(1)
  })
})
