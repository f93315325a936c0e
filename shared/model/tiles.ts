import assert from 'node:assert/strict'
import { tileGraph } from './graph/ffn.ts'
import { Graph } from './graph/onnx.ts'
import type { Group, Kernels, OpenGraph } from './kernels.ts'
import { float32, int32, type Session, type Tensor } from './session.ts'

/**
 * A GPU picks its kernel by the number of rows, and kernels add up in different orders. So every run there has this many, and a row's
 * bits cannot depend on how many came with it.
 */
export const GPU_ROWS = 64

/** Results that are fetched together: waiting for the GPU takes as long as two experts do. */
const TILES = 8

const NO_SHARD = { folder: '', shard: '' }

/**
 * Experts on a device whose results can stay there (WebGPU): rows go over once a frame, experts run on tiles of GPU_ROWS of them without
 * waiting for one another, and the results that were asked for come back together.
 */
export const openTiles = async (open: OpenGraph): Promise<Kernels> => {
  const place = await open(placeGraph(), NO_SHARD, true)
  const fetch = await open(fetchGraph(), NO_SHARD, false)
  return {
    open: ({ config, precision, ...source }) => {
      assert(precision === 'fp32')
      return open(tileGraph(config, GPU_ROWS), source, true)
    },
    async run({ rows }, hidden, groups, store) {
      assert(rows instanceof Float32Array)
      if (groups.length === 0) return
      const { x } = await place.run({ rows: float32(rows, [rows.length / hidden, hidden]) })
      const tiles = groups.flatMap(cut)
      try {
        for (let from = 0, stored = 0; from < tiles.length; from += TILES) {
          const values = await runTiles(fetch, x, tiles.slice(from, from + TILES))
          store(values, stored)
          stored += values.length / hidden
        }
      } finally {
        x.dispose()
      }
    },
    async close() {
      await place.close()
      await fetch.close()
    },
  }
}

/** A group in pieces of GPU_ROWS rows, the last of what is left. */
const cut = ({ expert, index }: Group): Group[] =>
  Array.from({ length: Math.ceil(index.length / GPU_ROWS) }, (_, i) => ({
    expert,
    index: index.subarray(i * GPU_ROWS, (i + 1) * GPU_ROWS),
  }))

/** At most TILES tiles over rows x on the device, and their results from there [n,H]. */
const runTiles = async (fetch: Session, x: Tensor, tiles: readonly Group[]): Promise<Float32Array> => {
  const results: Tensor[] = []
  try {
    for (const { expert, index } of tiles) {
      const padded = new Int32Array(GPU_ROWS)
      padded.set(index)
      results.push((await expert.run({ x, index: int32(padded) })).y)
    }
    const feeds = Array.from({ length: TILES }, (_, i): [string, Tensor] => [`y${i}`, results[i] ?? results[0]])
    const wanted = tiles.flatMap(({ index }, tile) => Array.from(index, (_, i) => tile * GPU_ROWS + i))
    const { y } = await fetch.run({ ...Object.fromEntries(feeds), index: int32(Int32Array.from(wanted)) })
    return y.data as Float32Array
  } finally {
    for (const result of results) result.dispose()
  }
}

/** rows [T,H] → x, the same on the device. */
const placeGraph = (): Graph => {
  const g = new Graph()
  g.output('x', g.input('rows', 'float32', ['T', 'H']), 'float32', ['T', 'H'])
  return g
}

/** Those of the rows of y0, y1, … [GPU_ROWS,H] that index [n] names, counted through: y [n,H]. */
const fetchGraph = (): Graph => {
  const g = new Graph()
  const tiles = Array.from({ length: TILES }, (_, i) => g.input(`y${i}`, 'float32', [GPU_ROWS, 'H']))
  const all = g.op('Concat', tiles, { axis: 0 })
  g.output('y', g.op('Gather', [all, g.input('index', 'int32', ['n'])]), 'float32', ['n', 'H'])
  return g
}
