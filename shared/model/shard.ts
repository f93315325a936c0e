import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Precision } from './config.ts'
import { fillPart, type Weights } from './fill.ts'
import { type Part, partGraph, shardName } from './part.ts'

/** Where a model's shards lie: the folder is named by the model hash, so a changed checkpoint never meets old shards. */
export const shardFolder = (cacheDir: string, modelHash: string): string => join(cacheDir, 'shards', modelHash)

/** Those of the parts whose shard is not on disk yet, or has another size. */
export const missingParts = async (
  model: Weights,
  folder: string,
  precision: Precision,
  parts: readonly Part[],
): Promise<Part[]> => {
  const missing: Part[] = []
  for (const part of parts) {
    const found = await stat(join(folder, shardName(part))).catch(() => null)
    if (found?.size !== partGraph(model.config, part, precision).shardBytes) missing.push(part)
  }
  return missing
}

/** Converts one part. The shard appears whole or not at all, also when several processes write the same one. */
export const writeShard = async (model: Weights, folder: string, precision: Precision, part: Part): Promise<void> => {
  const graph = partGraph(model.config, part, precision)
  const due = new Map(graph.weights.map((weight) => [weight.name, weight]))
  await mkdir(folder, { recursive: true })
  const unfinished = join(folder, `${shardName(part)}.${randomUUID()}`)
  const file = await open(unfinished, 'w')
  try {
    await file.truncate(graph.shardBytes)
    await fillPart(model, part, precision, async (name, values) => {
      const weight = due.get(name)
      assert(weight && weight.bytes === values.byteLength, `${shardName(part)}: ${name} does not fit its graph`)
      due.delete(name)
      await writeAll(file, new Uint8Array(values.buffer, values.byteOffset, values.byteLength), weight.offset)
    })
    assert.equal(due.size, 0, `${shardName(part)}: nothing fills ${[...due.keys()]}`)
    await file.close()
    await rename(unfinished, join(folder, shardName(part)))
  } catch (error) {
    await file.close().catch(() => {})
    await rm(unfinished, { force: true })
    throw error
  }
}

/** One write call takes at most 2 GiB. */
const WRITE_BYTES_MAX = 1 << 30

const writeAll = async (file: Awaited<ReturnType<typeof open>>, bytes: Uint8Array, offset: number): Promise<void> => {
  for (let done = 0; done < bytes.length; ) {
    const length = Math.min(bytes.length - done, WRITE_BYTES_MAX)
    const { bytesWritten } = await file.write(bytes, done, length, offset + done)
    done += bytesWritten
  }
}
