import { InvalidArgumentError } from 'commander'
import { describe, expect, test } from 'vitest'
import { checkCluster, decimal, gatewayFlags, whole, workerFlags } from '../../../services/cli/flags.ts'

describe('flags of an in-machine cluster', () => {
  const least = { model: 'some/model', workers: 3 }

  test('what a person leaves out is left to the services', () => {
    expect(gatewayFlags(least, [])).toEqual(['--model', 'some/model'])
  })

  test('the gateway is told of every worker and of everything chosen', () => {
    const options = {
      ...least,
      listen: '127.0.0.1:0',
      replicas: 2,
      precision: 'int8',
      chunk: 16,
      kvMemoryMib: 9,
      insecure: true,
    } as const
    expect(gatewayFlags(options, ['unix:a', 'unix:b']).join(' ')).toBe(
      '--model some/model --listen 127.0.0.1:0 --worker unix:a --worker unix:b --replicas 2 --precision int8 --chunk 16 --kv-memory-mib 9 --insecure',
    )
  })

  test('workers have sockets of their own, see the model and share the cores', () => {
    const [first, second] = ['unix:a', 'unix:b'].map((address) => workerFlags(least, address, 8))
    expect(first.join(' ')).toBe('--listen unix:a --models some/model --threads 2')
    expect(second).toContain('unix:b')
  })

  test('more workers than cores have one thread each, and a number given wins', () => {
    expect(workerFlags(least, 'unix:a', 2).slice(-2)).toEqual(['--threads', '1'])
    expect(workerFlags({ ...least, threads: 5 }, 'unix:a', 2).slice(-2)).toEqual(['--threads', '5'])
  })
})

test('a device is not asked for where no worker would run on it', () => {
  expect(() => checkCluster({ workers: 0, device: 'webgpu' })).toThrow('at least one')
  for (const plan of [{ workers: 0 }, { workers: 0, device: 'cpu' }, { workers: 1, device: 'webgpu' }])
    checkCluster(plan)
})

test('replicas are on different workers', () => {
  expect(() => checkCluster({ workers: 2, replicas: 3 })).toThrow('--replicas 3 needs as many workers')
  for (const [workers, replicas] of [
    [2, 2],
    [0, 1],
  ])
    checkCluster({ workers, replicas })
})

describe('values on the command line', () => {
  test.each(['', '-1', '1.5', '1e3', 'x', '0', '9'])('%j is no whole number from 1 to 8', (text) => {
    expect(() => whole(1, 8)(text)).toThrow(InvalidArgumentError)
  })

  test('bounds of whole numbers are included', () => {
    expect([whole(1, 8)('1'), whole(1, 8)('8'), whole(0)('0')]).toEqual([1, 8, 0])
  })

  test.each(['', 'NaN', '-0.1', '1.1', 'Infinity'])('%j is no number from 0 to 1', (text) => {
    expect(() => decimal(0, 1)(text)).toThrow(InvalidArgumentError)
  })
})
