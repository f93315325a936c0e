import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Code, MeshError } from '../../shared/errors.ts'
import { type ModelConfig, PRECISIONS, type Precision } from '../../shared/model/config.ts'
import { modelHash, openModel } from '../../shared/model/open.ts'
import { partGraph } from '../../shared/model/part.ts'
import type { Device } from '../../shared/model/session.ts'
import type { ModelSource } from './job.ts'

/** A model in a precision that this worker could load, by hash. */
export type VisibleModel = ModelSource & {
  config: ModelConfig
  /** What one of its experts takes when held. */
  expertBytes: number
}

const isModel = (folder: string): boolean => existsSync(join(folder, 'config.json'))

/** Folders that are a model, among these and the folders in them. */
export const modelFolders = (folders: readonly string[]): string[] =>
  folders.flatMap((folder) => {
    if (!existsSync(folder)) return []
    if (isModel(folder)) return [folder]
    return readdirSync(folder)
      .map((name) => join(folder, name))
      .filter(isModel)
      .sort()
  })

/** Quantised kernels are the CPU's alone; elsewhere an int8 model would be another numeric class. */
export const precisionsOf = (device: Device): readonly Precision[] => (device === 'cpu' ? PRECISIONS : ['fp32'])

/**
 * Hashes every model in these folders, in these precisions; a model that cannot be served is left out and reported.
 * @throws MeshError FAILED_PRECONDITION when none is left.
 */
export const visibleModels = async (
  folders: readonly string[],
  options: { cacheDir: string; precisions: readonly Precision[]; onRefused(folder: string, error: MeshError): void },
): Promise<VisibleModel[]> => {
  const visible: VisibleModel[] = []
  for (const dir of modelFolders(folders)) {
    try {
      visible.push(...(await inEveryPrecision(dir, options)))
    } catch (error) {
      options.onRefused(dir, MeshError.from(error))
    }
  }
  if (visible.length > 0) return visible
  const cause = `there is no model to serve in ${folders.join(', ')}`
  throw new MeshError(
    Code.FAILED_PRECONDITION,
    `${cause}; name a folder with config.json and safetensors, or one of such folders, by --models`,
  )
}

const inEveryPrecision = async (
  dir: string,
  { cacheDir, precisions }: { cacheDir: string; precisions: readonly Precision[] },
): Promise<VisibleModel[]> => {
  const model = await openModel(dir)
  try {
    const { config } = model
    const visible: VisibleModel[] = []
    for (const precision of precisions) {
      const hash = await modelHash(model, precision, cacheDir)
      const expertBytes = partGraph(config, { kind: 'expert', layer: 0, expert: 0 }, precision).shardBytes
      visible.push({ hash, dir, precision, config, expertBytes })
    }
    return visible
  } finally {
    await model.close()
  }
}
