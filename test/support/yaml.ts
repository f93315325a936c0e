import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseAllDocuments, parseDocument } from 'yaml'
import { packageRoot } from '../../shared/root.ts'

const checked = (path: string, { errors, warnings }: { errors: Error[]; warnings: Error[] }): void => {
  const [wrong] = [...errors, ...warnings]
  if (wrong) throw new Error(`${path}: ${wrong.message}`)
}

/** A YAML file of the repository; its merge keys (<<) are resolved. */
export const readYaml = <Shape>(...path: string[]): Shape => {
  const file = join(packageRoot, ...path)
  const document = parseDocument(readFileSync(file, 'utf8'), { merge: true })
  checked(file, document)
  return document.toJS() as Shape
}

/** Every document of the YAML files in a folder, with the file it stands in. */
export const readFolder = <Shape>(...path: string[]): { file: string; manifest: Shape }[] => {
  const folder = join(packageRoot, ...path)
  return readdirSync(folder)
    .filter((name) => name.endsWith('.yaml'))
    .flatMap((file) =>
      [...parseAllDocuments(readFileSync(join(folder, file), 'utf8'))].map((document) => {
        checked(file, document)
        return { file, manifest: document.toJS() as Shape }
      }),
    )
}
