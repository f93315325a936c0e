import { describe, expect, test } from 'vitest'
import { baseUrl, checkOptions, type LoadOptions, loadFlags } from '../../../../services/cli/load/options.ts'

const parse = (...flags: string[]): LoadOptions => {
  const command = loadFlags()
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
  return command.parse(flags, { from: 'user' }).opts<LoadOptions>()
}

describe('the flags of load', () => {
  test.each([
    ['http://127.0.0.1:8080', 'http://127.0.0.1:8080'],
    ['http://h:1/', 'http://h:1'],
    ['https://h/v1', 'https://h'],
    ['https://h/v1/', 'https://h'],
    ['https://h/api/v1', 'https://h/api'],
  ])('%s is the server %s', (text, base) => {
    expect(baseUrl(text)).toBe(base)
  })

  test.each(['', 'h:1', 'ftp://h', 'http://', 'http://h?a=1', 'unix:/a'])('%j is no server', (text) => {
    expect(() => baseUrl(text)).toThrow('http://HOST:PORT')
  })

  test('several servers are kept in order', () => {
    expect(parse('--url', 'http://a:1', '--url', 'http://b:2').url).toEqual(['http://a:1', 'http://b:2'])
  })

  test.each([
    ['--rate', '0'],
    ['--rate', '-1'],
    ['--concurrency', '0'],
    ['--concurrency', '100000'],
    ['--duration', '0'],
    ['--duration', '100000'],
    ['--input-len', 'x'],
    ['--requests', '1.5'],
    ['--burstiness', '0'],
    ['--endpoint', 'embeddings'],
  ])('%s %s is refused', (...flags) => {
    expect(() => parse(...flags)).toThrow()
  })

  test.each([
    [['--rate', '1', '--concurrency', '2'], 'choose one of --rate'],
    [['--trace', 'a', '--rate', '1'], 'choose one of --rate'],
    [['--trace', 'a', '--prompts', 'b'], 'leave out --prompts'],
    [['--prompts', 'a', '--distinct', '2'], '--distinct is for random prompts'],
    [['--check', '--golden', 'a'], 'choose one'],
    [['--write-golden', 'b', '--golden', 'a'], 'choose one'],
    [['--plain', '--check'], 'nothing to check'],
  ])('%j contradict each other', (flags, sentence) => {
    expect(() => checkOptions(parse(...flags))).toThrow(sentence)
  })

  test('nothing needs to be said', () => {
    expect(() => checkOptions(parse())).not.toThrow()
  })
})
