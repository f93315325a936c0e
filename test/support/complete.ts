/** One completion by ids over HTTP: its ids, and the digest of its logits. */
export const complete = async (
  url: string,
  prompt: readonly number[],
  more: object,
): Promise<{ ids: number[]; digest: string }> => {
  const models = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] }
  const body = { prompt, temperature: 0, ignore_eos: true, return_token_ids: true, logits_sha256: true, ...more }
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: models.data[0].id, ...body }),
  })
  if (!response.ok) throw new Error(await response.text())
  const answer = (await response.json()) as { choices: { token_ids: number[]; logits_sha256: string }[] }
  return { ids: answer.choices[0].token_ids, digest: answer.choices[0].logits_sha256 }
}
