import type OpenAI from 'openai'
import { toFile } from 'openai'
import { expect } from 'vitest'

/** A line of a file of requests. */
export const lineOf = (custom_id: string, body: object, url = '/v1/completions'): string =>
  JSON.stringify({ custom_id, method: 'POST', url, body })

export const upload = async (client: OpenAI, lines: readonly string[]): Promise<OpenAI.FileObject> =>
  client.files.create({ file: await toFile(Buffer.from(lines.join('\n')), 'lines.jsonl'), purpose: 'batch' })

/** Uploads the lines and has them answered. */
export const createBatch = async (
  client: OpenAI,
  lines: readonly string[],
  endpoint: OpenAI.BatchCreateParams['endpoint'] = '/v1/completions',
): Promise<OpenAI.Batch> => {
  const { id } = await upload(client, lines)
  return client.batches.create({ input_file_id: id, endpoint, completion_window: '24h', metadata: { of: 'tests' } })
}

const ended = ['completed', 'failed', 'cancelled', 'expired']

/** The batch once it has ended. */
export const untilEnded = async (client: OpenAI, id: string, timeout = 60_000): Promise<OpenAI.Batch> => {
  const status = async (): Promise<string> => (await client.batches.retrieve(id)).status
  await expect.poll(status, { timeout, interval: 100 }).toBeOneOf(ended)
  return client.batches.retrieve(id)
}

/** A line of a file of results. */
export type ResultLine = {
  id: string
  custom_id: string
  response: { status_code: number; request_id: string; body: { choices: object[]; error?: OpenAI.ErrorObject } } | null
  error: { code: string } | null
}

export const resultsOf = async (client: OpenAI, file: string | undefined): Promise<ResultLine[]> => {
  if (file === undefined) return []
  const text = await (await client.files.content(file)).text()
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as ResultLine)
}
