import { describe, expect, it } from 'vitest'
import { dialledFrom, isAddress } from '../../shared/address.ts'

describe('an address', () => {
  it.each(['a:1', '10.0.0.1:65535', '[::1]:0', 'unix:/run/a', 'host.lan:7070'])('may be %s', (text) => {
    expect(isAddress(text)).toBe(true)
  })

  it.each([
    '',
    'a',
    'a:',
    'a:65536',
    'a:-1',
    '::1:7',
    'dns:a:1',
    'http://a:1',
    'a b:1',
    'unix:',
    `unix:${'x'.repeat(256)}`,
  ])('is not %j', (text) => {
    expect(isAddress(text)).toBe(false)
  })
})

describe('what a gateway dials', () => {
  it.each([
    ['10.1.2.3:7070', '10.9.9.9:5123', '10.1.2.3:7070'],
    ['unix:/run/a', 'unknown', 'unix:/run/a'],
    ['0.0.0.0:7070', '10.9.9.9:5123', '10.9.9.9:7070'],
    ['[::]:7070', '[fe80::1]:5123', '[fe80::1]:7070'],
    ['0.0.0.0:7070', '[fe80::1]:5123', '[fe80::1]:7070'],
  ])('for a worker at %s that calls from %s is %s', (address, peer, dialled) => {
    expect(dialledFrom(address, peer)).toBe(dialled)
  })

  it('is unknown where neither tells', () => {
    expect(() => dialledFrom('0.0.0.0:7070', 'unknown')).toThrow(/--advertise HOST:PORT/)
  })
})
