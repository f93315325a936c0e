import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'

const climb = (dir: string): string => (existsSync(join(dir, 'package.json')) ? dir : climb(dirname(dir)))

/** The folder that holds package.json, whether this runs from sources or from dist. */
export const packageRoot: string = climb(import.meta.dirname)

/** The compiled form of a source file, for threads and child processes: Node runs no TypeScript there. */
export const built = (source: string): string => join(packageRoot, 'dist', source.replace(/\.ts$/, '.js'))
