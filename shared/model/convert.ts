import { fork } from 'node:child_process'
import { Code, MeshError } from '../errors.ts'
import { built } from '../root.ts'
import type { Precision } from './config.ts'
import { modelHash, openModel } from './open.ts'
import type { Part } from './part.ts'
import { missingParts, shardFolder, writeShard } from './shard.ts'

export type ConversionJob = { modelDir: string; cacheDir: string; precision: Precision; parts: readonly Part[] }
type Progress = { done: number; total: number }
type Failure = { failed: string; code: Code }
type Report = { progress: Progress } | { finished: true } | Failure

/**
 * Makes sure that the shards of these parts are on disk. Reading and quantising weights takes seconds of plain computation, so it
 * happens in a child process and the serving threads go on; nothing is started when nothing is missing.
 * @throws MeshError what the checkpoint's reader said; CANCELLED when the signal fired.
 */
export const convert = async (
  job: ConversionJob,
  options: { signal?: AbortSignal; onProgress?: (done: number, total: number) => void } = {},
): Promise<void> => {
  const model = await openModel(job.modelDir)
  try {
    const folder = shardFolder(job.cacheDir, await modelHash(model, job.precision, job.cacheDir))
    const parts = await missingParts(model, folder, job.precision, job.parts)
    if (parts.length > 0) await runChild({ ...job, parts }, options)
  } finally {
    await model.close()
  }
}

const runChild = (
  job: ConversionJob,
  { signal, onProgress }: { signal?: AbortSignal; onProgress?: (done: number, total: number) => void },
): Promise<void> =>
  new Promise((resolve, reject) => {
    let finished = false
    let failure: Failure | undefined
    const child = fork(built('shared/model/convert.ts'), ['--convert'], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    const stop = () => child.kill('SIGKILL')
    signal?.addEventListener('abort', stop, { once: true })
    child.on('message', (message: Report) => {
      if ('progress' in message) onProgress?.(message.progress.done, message.progress.total)
      else if ('failed' in message) failure = message
      else finished = true
    })
    child.on('error', reject)
    child.on('exit', (status, killer) => {
      signal?.removeEventListener('abort', stop)
      if (signal?.aborted) reject(new MeshError(Code.CANCELLED, 'the conversion was cancelled'))
      else if (finished) resolve()
      else if (failure) reject(new MeshError(failure.code, failure.failed))
      else reject(new MeshError(Code.INTERNAL, `the process that converts weights ended with ${killer ?? status}`))
    })
    child.send(job)
  })

const work = async (job: ConversionJob, report: (message: Report) => void): Promise<void> => {
  const model = await openModel(job.modelDir)
  const folder = shardFolder(job.cacheDir, await modelHash(model, job.precision, job.cacheDir))
  let done = 0
  for (const part of job.parts) {
    await writeShard(model, folder, job.precision, part)
    report({ progress: { done: ++done, total: job.parts.length } })
  }
  await model.close()
}

if (process.argv[2] === '--convert' && process.send) {
  const report = (message: Report): void => {
    process.send?.(message)
  }
  // The parent is gone: nobody waits for these shards.
  process.on('disconnect', () => process.exit(1))
  process.once('message', (job: ConversionJob) => {
    work(job, report)
      .then(
        () => report({ finished: true }),
        (error) => {
          const { message, code } = MeshError.from(error)
          report({ failed: message, code })
        },
      )
      .then(() => process.disconnect())
  })
}
