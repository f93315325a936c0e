import { createHash } from 'node:crypto'
import { Code, MeshError } from '../../../../shared/errors.ts'
import type { GenerateParts } from '../generate.ts'
import type { Work } from '../request.ts'
import { answer, attemptsMax, endWorks, sequencesOf, workOf } from './answer.ts'
import type { Archive } from './archive.ts'
import { hasEnded, isOverdue } from './batch.ts'
import { type Claim, leaseMs } from './claim.ts'
import { contentOf, findFile, saveFile } from './files.ts'
import { type BatchLine, readLines, whole } from './lines.ts'
import { type Result, writeResults } from './results.ts'
import type { Room } from './room.ts'

const renewMs = leaseMs / 3
/** Results read at a time. */
const resultsRead = 100

export type DriveParts = GenerateParts & {
  archive: Archive
  /** Places for sequences of batches. */
  room: Room
  onError(error: unknown): void
}

/** Works on one batch, from wherever it is to its end. */
export class Drive {
  readonly #parts: DriveParts
  readonly #claim: Claim
  /** This process works on it no more; what runs goes on. */
  readonly #left: AbortSignal
  readonly #failed = new AbortController()
  /** It is cancelled, or past its window. */
  readonly #over = new AbortController()
  readonly #running = new Map<number, Work>()

  constructor(parts: DriveParts, claim: Claim, closed: AbortSignal) {
    this.#parts = parts
    this.#claim = claim
    this.#left = AbortSignal.any([closed, claim.lost, this.#failed.signal])
  }

  /** Resolves when the batch has ended, or is somebody else's, or `closed` aborted. */
  async run(): Promise<void> {
    let renewing = false
    const ticking = setInterval(async () => {
      if (renewing) return
      renewing = true
      await this.#claim.renew().then(() => this.#look(), this.#parts.onError)
      renewing = false
    }, renewMs)
    try {
      this.#look()
      const lines = await this.#prepare()
      this.#look()
      await this.#answerAll(lines)
      if (!this.#left.aborted && !hasEnded(this.#claim.batch)) await this.#settle(lines)
    } catch (error) {
      if (!this.#left.aborted || this.#failed.signal.aborted) throw error
    } finally {
      clearInterval(ticking)
      this.#failed.abort()
      await this.#claim.release()
    }
  }

  #look(): void {
    const { batch } = this.#claim
    const over = batch.status === 'cancelling' || isOverdue(batch, Math.floor(Date.now() / 1000))
    if (!over || this.#over.signal.aborted) return
    this.#over.abort()
    void endWorks(this.#parts, [...this.#running.values()])
  }

  /** The lines, checked once in the life of the batch. */
  async #prepare(): Promise<BatchLine[]> {
    const { archive, served } = this.#parts
    const { input_file_id, endpoint, status } = this.#claim.batch
    const file = await findFile(archive, input_file_id, this.#claim.tenant)
    if (!file) return this.#withoutFile(input_file_id)
    let text = ''
    for await (const part of contentOf(archive, file)) text += part
    const asked = { batch: this.#claim.id, at: 0, endpoint }
    const check = status === 'validating' ? (body: unknown) => void workOf(served, { ...asked, body }, 0) : () => {}
    const { lines, errors } = await readLines(text, endpoint, check)
    if (status === 'validating' && !this.#left.aborted)
      await this.#claim.turn(
        errors.length > 0 ? { kind: 'invalid', errors } : { kind: 'valid', requests: lines.length },
      )
    return lines
  }

  async #withoutFile(id: string): Promise<BatchLine[]> {
    const message = `The file ${id} is no longer here.`
    if (this.#claim.batch.status !== 'validating') throw new MeshError(Code.DATA_LOSS, message)
    await this.#claim.turn({ kind: 'invalid', errors: [whole('file_not_found', message)] })
    return []
  }

  async #answerAll(lines: readonly BatchLine[]): Promise<void> {
    const { archive, room, served } = this.#parts
    if (hasEnded(this.#claim.batch)) return
    const answered = new Set(await archive.names(this.#claim.id))
    const due = [...lines.entries()].filter(([, { customId }]) => !answered.has(customId))
    if (this.#over.signal.aborted) return this.#endStrays(due)
    const stop = { left: this.#left, ended: AbortSignal.any([this.#left, this.#over.signal]) }
    const tasks = new Set<Promise<void>>()
    for (const [at, { customId, body }] of due) {
      const asked = this.#asked(at, body)
      const places = await room.enter(sequencesOf(served, asked), stop.ended)
      if (places === 0) break
      const task = answer(this.#parts, asked, this.#claim.tenant, stop, (work) => this.#running.set(at, work))
        .then((result) => this.#keep(customId, result))
        .catch((error) => this.#fail(error))
        .finally(() => {
          tasks.delete(task)
          this.#running.delete(at)
          room.leave(places)
        })
      tasks.add(task)
    }
    await Promise.all(tasks)
    this.#failed.signal.throwIfAborted()
  }

  #asked(at: number, body: unknown) {
    return { batch: this.#claim.id, at, endpoint: this.#claim.batch.endpoint, body }
  }

  async #keep(customId: string, result: Result | null): Promise<void> {
    if (!result) return
    await this.#claim.record(customId, result)
    this.#parts.metrics.batchRequest(result.status < 400 ? 'completed' : 'failed')
  }

  #fail(error: unknown): void {
    if (!this.#left.aborted) this.#failed.abort(error)
  }

  /** What a gateway before this one had under way: among the first lines without a result, since lines begin in their order. */
  #endStrays(due: readonly (readonly [number, BatchLine])[]): Promise<void> {
    const first = due.slice(0, this.#parts.room.places)
    const attempts = Array.from({ length: attemptsMax }, (_, attempt) => attempt)
    return endWorks(
      this.#parts,
      first.flatMap(([at, { body }]) =>
        attempts.map((attempt) => workOf(this.#parts.served, this.#asked(at, body), attempt)),
      ),
    )
  }

  async #settle(lines: readonly BatchLine[]): Promise<void> {
    const { completed } = this.#claim.batch.request_counts
    const output = completed > 0 && { output_file_id: await this.#save(lines, 'output') }
    const error = lines.length > completed && { error_file_id: await this.#save(lines, 'error') }
    await this.#claim.turn({ kind: 'settled', files: { ...output, ...error } })
  }

  async #save(lines: readonly BatchLine[], kind: 'output' | 'error'): Promise<string> {
    const { id, tenant, batch } = this.#claim
    // Whoever has to write it again writes the same file.
    const digest = createHash('sha256').update(`${id} ${kind} ${batch.status}`).digest('hex')
    const file = {
      id: `file-${digest.slice(0, 32)}`,
      filename: `${id}_${kind}.jsonl`,
      purpose: 'batch_output',
    } as const
    const record = await saveFile(this.#parts.archive, { ...file, tenant }, this.#texts(lines, kind), false)
    return record.id
  }

  async *#texts(lines: readonly BatchLine[], kind: 'output' | 'error'): AsyncGenerator<string> {
    const { id, batch } = this.#claim
    for (let first = 0; first < lines.length && !this.#left.aborted; first += resultsRead) {
      const some = lines.slice(first, first + resultsRead)
      const names = some.map(({ customId }) => customId)
      const texts = await this.#parts.archive.parts(id, names)
      const results = new Map(names.map((name, at) => [name, texts[at]]))
      const resultOf = (name: string): Result | null => {
        const text = results.get(name)
        return text ? (JSON.parse(text) as Result) : null
      }
      yield writeResults(batch, some, resultOf, first)[kind]
    }
    this.#left.throwIfAborted()
  }
}
