/** One completion by ids over HTTP: its ids, the digest of its logits, and the log-probabilities reported with its first token. */
export const complete = async (
  url: string,
  prompt: readonly number[],
  more: object,
): Promise<{ ids: number[]; digest: string; first: Record<string, number> | null }> => {
  const models = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] }
  const body = { prompt, temperature: 0, ignore_eos: true, return_token_ids: true, logits_sha256: true, ...more }
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: models.data[0].id, ...body }),
  })
  if (!response.ok) throw new Error(await response.text())
  const answer = (await response.json()) as { choices: Choice[] }
  const { token_ids, logits_sha256, logprobs } = answer.choices[0]
  return { ids: token_ids, digest: logits_sha256, first: logprobs?.top_logprobs[0] ?? null }
}

type Choice = {
  token_ids: number[]
  logits_sha256: string
  logprobs: { top_logprobs: Record<string, number>[] } | null
}
