import { describe, expect, it } from 'vitest'
import { coverage, locate, missing, nextTopology, topologyOf } from '../../../../services/gateway/placement/locate.ts'
import { Code } from '../../../../shared/errors.ts'

const space = (layers: number, experts: number) => ({
  layers: Array.from({ length: layers }, (_, i) => i + 1),
  experts,
})

describe('coverage', () => {
  it('counts an expert once however many replicas it has', () => {
    const homes = [[{ layer: 1, experts: [0, 1] }], [{ layer: 1, experts: [1] }]]
    expect(coverage(space(1, 4), homes)).toBe(0.5)
    expect(missing(space(1, 4), homes)).toEqual([
      { layer: 1, expert: 2 },
      { layer: 1, expert: 3 },
    ])
  })

  it('is complete for a dense model', () => {
    expect(coverage(space(0, 4), [])).toBe(1)
  })
})

describe('locate', () => {
  const topology = topologyOf(3, ['a', 'b'], [[{ layer: 1, experts: [0, 1] }], [{ layer: 1, experts: [1] }]])

  it('finds every replica', () => {
    expect(locate(topology, 1, 0)).toEqual([0])
    expect(locate(topology, 1, 1)).toEqual([0, 1])
  })

  it.each([
    [1, 2],
    [0, 0],
    [9, 0],
  ])('names the missing (layer %i, expert %i)', (layer, expert) => {
    expect(() => locate(topology, layer, expert)).toThrow(
      expect.objectContaining({
        code: Code.UNAVAILABLE,
        message: `no worker holds (layer ${layer}, expert ${expert})`,
      }),
    )
  })
})

describe('the next topology', () => {
  const home = [{ layer: 0, experts: [0, 1] }]
  const first = nextTopology({ version: 4, workers: [], replicas: [] }, [
    { address: 'a', holds: home, leaving: false },
    { address: 'b', holds: [], leaving: false },
  ])

  it('is the one before where nothing changed', () => {
    expect(first).toEqual({ version: 5, workers: ['a'], replicas: [[[0], [0]]] })
    expect(nextTopology(first, [{ address: 'a', holds: home, leaving: false }])).toBe(first)
    expect(nextTopology(first, [])).toEqual({ version: 6, workers: [], replicas: [] })
  })

  it('names a leaving worker for what nobody listed before it holds', () => {
    const holders = [
      { address: 'a', holds: [{ layer: 0, experts: [1] }], leaving: false },
      { address: 'b', holds: home, leaving: true },
      { address: 'c', holds: home, leaving: true },
      { address: 'd', holds: home, leaving: false },
    ]
    expect(nextTopology(first, holders)).toMatchObject({
      workers: ['a', 'b', 'd'],
      replicas: [
        [
          [1, 2],
          [2, 0],
        ],
      ],
    })
  })
})
