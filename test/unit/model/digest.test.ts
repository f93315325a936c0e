import { copyFile, mkdtemp, open, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelHash, openModel } from '../../../shared/model/open.ts'
import { writeCheckpoint } from '../../support/checkpoint.ts'
import { tinyConfigs } from '../../support/configs.ts'

let root: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'digest-'))
})
afterAll(() => rm(root, { recursive: true }))

const write = async (config: Record<string, unknown>): Promise<string> => {
  const dir = await mkdtemp(join(root, 'model-'))
  await writeCheckpoint(dir, config)
  return dir
}

describe('a model hash', () => {
  const hashOf = async (dir: string, precision: 'fp32' | 'int8' = 'fp32', cache?: string): Promise<string> => {
    const model = await openModel(dir)
    const hash = await modelHash(model, precision, cache ?? (await mkdtemp(join(root, 'cache-'))))
    await model.close()
    return hash
  }
  const flipByte = async (path: string, position: number): Promise<void> => {
    const file = await open(path, 'r+')
    const byte = new Uint8Array(1)
    await file.read(byte, 0, 1, position)
    byte[0] ^= 1
    await file.write(byte, 0, 1, position)
    await file.close()
  }

  it('is the same for the same content, and another for another byte, config or precision', async () => {
    const dir = await write(tinyConfigs.mixtral)
    const hash = await hashOf(dir)
    expect(hash).toMatch(/^[0-9a-f]{64}$/)
    expect(await hashOf(dir)).toBe(hash)
    expect(await hashOf(await write(tinyConfigs.mixtral))).toBe(hash)
    expect(await hashOf(dir, 'int8')).not.toBe(hash)
    expect(await hashOf(await write({ ...tinyConfigs.mixtral, rope_theta: 1e5 }))).not.toBe(hash)
    const cache = await mkdtemp(join(root, 'cache-'))
    expect(await hashOf(dir, 'fp32', cache)).toBe(hash)
    const weights = join(dir, 'model.safetensors')
    await flipByte(weights, (await stat(weights)).size - 1)
    expect(await hashOf(dir, 'fp32', cache)).not.toBe(hash)
  })

  it('is remembered by path, size, time and inode, so that weights are read once', async () => {
    const dir = await write(tinyConfigs.mixtral)
    const cache = join(root, 'new', 'cache')
    const hash = await hashOf(dir, 'fp32', cache)
    const weights = join(dir, 'model.safetensors')
    const { atime, mtime, size } = await stat(weights)
    await utimes(weights, atime, new Date(mtime.getTime() + 5000))
    const moved = await stat(weights)
    expect(await hashOf(dir, 'fp32', cache)).toBe(hash)
    // A change behind the back of the file's times is seen only by who reads the file.
    await flipByte(weights, size - 1)
    await utimes(weights, moved.atime, moved.mtime)
    expect(await hashOf(dir, 'fp32', cache)).toBe(hash)
    const copy = join(dir, 'copy')
    await copyFile(weights, copy)
    await utimes(copy, moved.atime, moved.mtime)
    await rename(copy, weights)
    expect(await hashOf(dir, 'fp32', cache)).not.toBe(hash)
    expect(await readdir(cache)).toEqual(['digests.json'])
  })

  it.each(['{', '7', '[1,null,{}]'])('is found anew when the cache holds %s', async (rubbish) => {
    const dir = await write(tinyConfigs.olmoe)
    const cache = await mkdtemp(join(root, 'cache-'))
    await writeFile(join(cache, 'digests.json'), rubbish)
    expect(await hashOf(dir, 'fp32', cache)).toBe(await hashOf(dir))
    expect(JSON.parse(await readFile(join(cache, 'digests.json'), 'utf8'))).toEqual(
      expect.arrayContaining([expect.objectContaining({ path: join(dir, 'model.safetensors') })]),
    )
  })
})
