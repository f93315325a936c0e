import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { type Heard, openAnswer } from '../../../../services/cli/load/answer.ts'
import { compare, type Golden, readGolden, remember, writeGolden } from '../../../../services/cli/load/golden.ts'

const dir = mkdtempSync(join(tmpdir(), 'golden-'))
afterAll(() => rmSync(dir, { recursive: true }))

const heard = (ids: number[] | null, logitsSha256: string | null): Heard => ({
  ...openAnswer().heard,
  gapsMs: [],
  ids,
  logitsSha256,
})

describe('golden answers', () => {
  const golden: Golden = new Map()
  remember(golden, 'body a', heard([1, 2, 3], 'aa'))
  remember(golden, 'body b', heard([7], null))

  test('are the same when they have been written and read', () => {
    const file = join(dir, 'golden.json')
    writeGolden(file, golden)
    expect(readGolden(file)).toEqual(golden)
  })

  test('accept the same ids with the same logits', () => {
    expect(compare(golden, 'body a', heard([1, 2, 3], 'aa'))).toBeNull()
    expect(compare(golden, 'body b', heard([7], null))).toBeNull()
  })

  test.each([
    ['body a', [1, 9, 3], 'aa', 'token 1 is 9 and should be 2'],
    ['body a', [1, 2], 'aa', 'token 2 is missing and should be 3'],
    ['body a', [1, 2, 3, 4], 'aa', '4 tokens came and should be 3'],
    ['body a', [1, 2, 3], 'ab', 'logits_sha256 is ab and should be aa'],
    ['body a', [1, 2, 3], null, 'logits_sha256 is null and should be aa'],
    ['body a', null, 'aa', 'token 0 is missing'],
    ['body c', [1], 'aa', 'the golden file has no answer to this request'],
  ])('refuse for %s the ids %j with logits %s', (body, ids, digest, message) => {
    const fault = compare(golden, body, heard(ids, digest))
    expect(fault).toMatchObject({ kind: 'wrong', again: false })
    expect(fault!.message).toContain(message)
  })

  test('need a server that returns ids', () => {
    expect(() => remember(golden, 'body', heard(null, 'aa'))).toThrow('returns no token ids')
  })

  test.each(['{}', '[]', '{"format":"expertmesh-golden-1","answers":{"a":{"ids":[-1],"logits_sha256":null}}}', '{'])(
    'are not read from %s',
    (text) => {
      const file = join(dir, 'broken.json')
      writeFileSync(file, text)
      expect(() => readGolden(file)).toThrow(file)
    },
  )
})
