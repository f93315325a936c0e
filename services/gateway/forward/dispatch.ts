import type { ExpertFrame } from '../../../shared/model/experts.ts'
import type { Attended } from './attend.ts'
import type { Routes } from './route.ts'

/** A call to a worker. written: its last byte has left, so that a kernel may block this thread. */
export type Call = { written: Promise<void>; reply: Promise<Reply> }
/** computeUs: time in the experts' kernels, microseconds. */
export type Reply = { rows: Float32Array; bytes: number; computeUs: number }
export type CallOptions = { deadlineMs: number; signal: AbortSignal }
/** Something that runs experts: a worker's stream, or the experts in this process. */
export type Runner = {
  /** Shown in errors and metrics. */
  name: string
  send(frame: ExpertFrame, options: CallOptions): Call
}
/** Picks the runner of an expert. @throws MeshError UNAVAILABLE naming (layer, expert) when none holds it. */
export type Locate = (layer: number, expert: number) => Runner

export type DispatchLimits = {
  /** Longest wait for one layer's replies. */
  timeoutMs: number
  /** Bytes of one frame's request or reply; larger dispatches are cut into several frames. */
  frameBytesMax: number
}

/** The experts' unweighted rows: assignment a = t·K + k is sources[source[a]] from offset[a] on, H values. */
export type AssignmentRows = { sources: readonly Float32Array[]; source: Uint32Array; offset: Uint32Array }

/** What has come back: the rows, and the longest that a runner's kernels took. */
export type Arrived = AssignmentRows & { computeMs: number }

/** What dispatch gives and combine takes back: replies are still out. */
export type Handle = { rows: Promise<Arrived>; requestBytes: number; frames: number }

/**
 * Sends a layer's token rows to the runners of their experts: per runner each row once, plus (row, expert) lists ascending by expert.
 * Resolves when every frame's last byte is on its way.
 */
export const dispatch = async (
  locate: Locate,
  layer: number,
  hidden: number,
  { rows, scale }: Attended,
  routes: Routes,
  limits: DispatchLimits,
  signal: AbortSignal,
): Promise<Handle> => {
  const width = hidden * Float32Array.BYTES_PER_ELEMENT
  const assignmentsMax = Math.max(1, Math.floor(limits.frameBytesMax / (width + 8)))
  const source = new Uint32Array(routes.ids.length)
  const offset = new Uint32Array(routes.ids.length)
  const calls: Call[] = []
  let requestBytes = 0
  for (const [runner, assignments] of group(locate, layer, routes)) {
    for (let begin = 0; begin < assignments.length; begin += assignmentsMax) {
      const part = assignments.subarray(begin, begin + assignmentsMax)
      const frame = makeFrame(layer, hidden, rows, scale, routes, part)
      part.forEach((assignment, i) => {
        source[assignment] = calls.length
        offset[assignment] = i * hidden
      })
      requestBytes += frame.rows.byteLength + 8 * part.length
      calls.push(runner.send(frame, { deadlineMs: limits.timeoutMs, signal }))
    }
  }
  const replies = Promise.all(calls.map(({ reply }) => reply))
  // A reply may fail while the frames are still being written; it is reported where the handle is awaited.
  replies.catch(() => {})
  await Promise.all(calls.map(({ written }) => written))
  const arrived = replies.then((all): Arrived => {
    const computeMs = Math.max(0, ...all.map(({ computeUs }) => computeUs)) / 1000
    return { sources: all.map((reply) => reply.rows), source, offset, computeMs }
  })
  arrived.catch(() => {})
  return { rows: arrived, requestBytes, frames: calls.length }
}

/** Assignments t·K + k by runner, each list ascending by expert, then row. */
const group = (locate: Locate, layer: number, { ids }: Routes): Map<Runner, Uint32Array> => {
  const order = Uint32Array.from(ids.keys()).sort((a, b) => ids[a] - ids[b] || a - b)
  const lists = new Map<Runner, number[]>()
  let expert = -1
  let list: number[] = []
  for (const assignment of order) {
    if (ids[assignment] !== expert) {
      expert = ids[assignment]
      const runner = locate(layer, expert)
      list = lists.get(runner) ?? []
      lists.set(runner, list)
    }
    list.push(assignment)
  }
  return new Map([...lists].map(([runner, assignments]) => [runner, Uint32Array.from(assignments)]))
}

const makeFrame = (
  layer: number,
  hidden: number,
  rows: Float32Array | Uint8Array,
  scale: Float32Array | null,
  { ids, topK }: Routes,
  assignments: Uint32Array,
): ExpertFrame => {
  const place = new Map<number, number>()
  const rowIndex = assignments.map((assignment) => {
    const row = Math.floor(assignment / topK)
    const known = place.get(row) ?? place.size
    place.set(row, known)
    return known
  })
  const rowCount = place.size
  const sent = rows instanceof Float32Array ? new Float32Array(rowCount * hidden) : new Uint8Array(rowCount * hidden)
  const rowScale = scale && new Float32Array(rowCount)
  for (const [row, at] of place) {
    sent.set(rows.subarray(row * hidden, (row + 1) * hidden), at * hidden)
    if (rowScale && scale) rowScale[at] = scale[row]
  }
  return { layer, rowCount, hidden, rows: sent, rowScale, rowIndex, expert: assignments.map((a) => ids[a]) }
}
