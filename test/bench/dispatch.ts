import { connectWorker } from '../../services/gateway/forward/channel.ts'
import { controlWorker } from '../../services/gateway/placement/workers.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { startWorker } from '../support/service.ts'

const limitMs = 600_000
const frameBytesMax = 64 << 20

export type Latency = { rows: number; p50Us: number; p99Us: number; computeP50Us: number }

/** Round trips of int8 frames to a real worker over a unix socket: every row through one expert. */
export const measureDispatch = async (modelDir: string, cache: string, folder: string): Promise<Latency[]> => {
  const model = await openModel(modelDir)
  const hash = await modelHash(model, 'int8', cache)
  const { hidden, layers } = model.config
  await model.close()
  const layer = layers.findIndex(({ ffn }) => ffn === 'sparse')
  const address = `unix:${folder}/worker`
  const flags = ['--listen', address, '--models', modelDir, '--cache', cache, '--threads', '1']
  const worker = await startWorker(flags)
  const control = controlWorker({ address, token: null })
  await control.load(hash, [{ layer, experts: [0] }], limitMs)
  const channel = connectWorker({ address, token: null, maxFrameBytes: frameBytesMax })
  const results: Latency[] = []
  for (const [rows, repeats] of [
    [1, 2000],
    [512, 50],
  ]) {
    const frame = frameOf(layer, hidden, rows)
    const times: number[] = []
    const computed: number[] = []
    for (let i = -repeats / 10; i < repeats; i++) {
      const begun = performance.now()
      const { computeUs } = await channel.send(frame, hash, { deadlineMs: limitMs }).reply
      if (i < 0) continue
      times.push((performance.now() - begun) * 1000)
      computed.push(computeUs)
    }
    const [p50Us, p99Us] = [quantile(times, 0.5), quantile(times, 0.99)]
    results.push({ rows, p50Us, p99Us, computeP50Us: quantile(computed, 0.5) })
  }
  channel.close()
  control.close()
  await worker.stop()
  return results
}

const frameOf = (layer: number, hidden: number, rows: number): ExpertFrame => ({
  layer,
  rowCount: rows,
  hidden,
  rows: Uint8Array.from({ length: rows * hidden }, (_, i) => 1 + ((i * 37) % 255)),
  rowScale: new Float32Array(rows).fill(1),
  rowIndex: Uint32Array.from({ length: rows }, (_, i) => i),
  expert: new Uint32Array(rows),
})

const quantile = (values: readonly number[], q: number): number =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(q * values.length))]
