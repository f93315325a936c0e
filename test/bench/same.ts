/** Whether both sides of the comparison compute the same model: llama.cpp on what the GGUF writer made, and expertmesh on the checkpoint. */
import { startCluster } from '../support/cluster.ts'
import { seeded } from '../support/random.ts'
import { openLlama } from './llama.ts'
import { openGateway } from './load.ts'
import { prepareGguf, prepareSmall } from './models.ts'
import { say } from './say.ts'

const PROMPTS = [3, 17, 64]
const TOKENS = 48

/**
 * Greedy ids of a small random model with fp32 weights on both sides.
 * @throws Error with both answers where they differ: whatever is measured then is not the same model.
 */
export const checkSame = async (): Promise<void> => {
  const model = await prepareSmall('fp32')
  const next = seeded(1)
  const prompts = PROMPTS.map((length) => Array.from({ length }, () => next(model.config.vocabulary)))
  const llama = await openLlama(await prepareGguf(model, 'F32'), { flash: false, cache: 'F32' })
  const cluster = await startCluster({ model: model.dir, precision: 'fp32', args: ['--cache', model.cacheDir] })
  const gateway = openGateway(cluster.grpc)
  try {
    await llama.room(1, Math.max(...PROMPTS) + TOKENS)
    for (const prompt of prompts) {
      const [theirs, ours] = [await llama.generate(prompt, TOKENS), await gateway.generate(prompt, TOKENS)]
      if (String(theirs.ids) !== String(ours.ids))
        throw new Error(
          `after ${prompt.length} tokens llama.cpp goes on with ${theirs.ids}, expertmesh with ${ours.ids}`,
        )
    }
    say(`the same weights: ${PROMPTS.length} greedy answers of ${TOKENS} tokens agree with llama.cpp in fp32`)
  } finally {
    await llama.close()
    await gateway.close()
    await cluster.stop()
  }
}
