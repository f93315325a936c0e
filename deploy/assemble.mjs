/** Part of `npm run generate`: assembles shared/model/simd.wat into a module that any loader of TypeScript reads. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import openWabt from 'wabt'

const root = join(import.meta.dirname, '..')
const from = 'shared/model/simd.wat'
const { parseWat } = await openWabt()
const module = parseWat(from, readFileSync(join(root, from), 'utf8'), { simd: true, sat_float_to_int: true })
module.validate()
const code = Buffer.from(module.toBinary({}).buffer).toString('base64')
writeFileSync(
  join(root, 'shared/gen/simd.ts'),
  `/** ${from}, assembled: WebAssembly in base64. */\nexport const SIMD =\n  '${code}'\n`,
)
