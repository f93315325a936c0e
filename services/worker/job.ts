import { Code, MeshError } from '../../shared/errors.ts'
import type { Precision } from '../../shared/model/config.ts'
import type { ExpertFrame } from '../../shared/model/experts.ts'
import type { TokenRows } from '../../shared/model/rows.ts'
import type { Device } from '../../shared/model/session.ts'

/** What the gRPC thread and the compute threads say to each other. */
export type ComputeSetup = {
  cacheDir: string
  device: Device
  threads: number
  /** [1], shared: changes, and notifies, after every job that was posted. */
  bell: Int32Array
}
export type ModelSource = { hash: string; dir: string; precision: Precision }

export type Job =
  | { kind: 'run'; model: string; frame: ExpertFrame }
  | { kind: 'load'; model: ModelSource; layer: number; expert: number }
  | { kind: 'unload'; model: string; layer: number; expert: number }

/**
 * startedUs is on the clock of nowUs. busyUs: computeUs, or longer where a CPU quota grants what was used meanwhile only in so long.
 * There are no rows for anything but 'run'.
 */
export type Done = TokenRows & { startedUs: number; computeUs: number; busyUs: number; crc: number }
export type ToCompute = { id: number; job: Job }
export type FromCompute = { id: number; done: Done } | { id: number; code: Code; message: string }

/** A monotonic clock that all threads share, in microseconds. */
export const nowUs = (): number => Number(process.hrtime.bigint() / 1000n)

/** What a gateway is told that asks for an expert which could be here and is not. */
export const notHeld = (layer: number, expert: number): MeshError =>
  new MeshError(Code.FAILED_PRECONDITION, `(layer ${layer}, expert ${expert}) is not held here; load it first`)
