import type { Call, CallOptions, Reply } from '../../services/gateway/forward/dispatch.ts'
import type { Remote } from '../../services/gateway/forward/remote.ts'
import type { Topology } from '../../services/gateway/placement/locate.ts'
import { type RunnersOptions, WorkerRunners } from '../../services/gateway/placement/runners.ts'
import { Code, MeshError } from '../../shared/errors.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'

/** What a scripted worker does with a frame: answers, perhaps after a while, with an error, or never. */
export type Script = (frame: ExpertFrame, call: number) => Promise<Partial<Reply>> | Partial<Reply>

/** A peer at the place of a worker's connection, for faults that no real worker commits on demand. */
export type Peer = Remote & { frames: ExpertFrame[]; cancelled: number; script: Script; alive: boolean }

/** Expert e of layer l adds 1000·l + e to each value of a row: whoever runs it. */
export const expertRows = ({ layer, hidden, rows, rowIndex, expert }: ExpertFrame): Float32Array => {
  const out = new Float32Array(rowIndex.length * hidden)
  for (const [a, row] of rowIndex.entries())
    for (let i = 0; i < hidden; i++) out[a * hidden + i] = rows[row * hidden + i] + 1000 * layer + expert[a]
  return out
}

export const silence = (): Promise<never> => new Promise(() => {})
export const failing = (code: Code) => (): Promise<never> => Promise.reject(new MeshError(code, 'as scripted'))

export const openPeer = (name: string, script: Script = () => ({})): Peer => {
  const peer: Peer = {
    name,
    frames: [],
    cancelled: 0,
    script,
    alive: true,
    send(frame: ExpertFrame, { signal }: CallOptions): Call {
      peer.frames.push(frame)
      const called = new Promise<never>((_, reject) => {
        signal.addEventListener('abort', () => {
          peer.cancelled++
          reject(new MeshError(Code.CANCELLED, 'called off'))
        })
      })
      const answered = async (): Promise<Reply> => {
        const told = await peer.script(frame, peer.frames.length)
        return { rows: expertRows(frame), rowScale: null, finite: true, bytes: 0, computeUs: 1, busyUs: 1, ...told }
      }
      const reply = Promise.race([answered(), called])
      reply.catch(() => {})
      return { written: Promise.resolve(), reply }
    },
    ping: async () => {
      if (!peer.alive) throw new MeshError(Code.UNAVAILABLE, 'gone')
    },
    close: () => {},
  }
  return peer
}

/** Runners over these peers, refereed by what peers compute when left alone. */
export const openRunners = (
  peers: readonly Peer[],
  topology: Topology,
  onState: RunnersOptions['onState'] = () => {},
): WorkerRunners => {
  const runners = new WorkerRunners({
    connect: (address) => {
      const peer = peers.find(({ name }) => name === address)
      if (!peer) throw new Error(`no peer ${address}`)
      return peer
    },
    onState,
    referee: async (frame) => ({ rows: expertRows(frame), rowScale: null }),
  })
  void runners.setTopology(topology)
  return runners
}
