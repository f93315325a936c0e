import { describe, expect, it } from 'vitest'
import {
  coverage,
  type Home,
  locate,
  missing,
  place,
  topologyOf,
} from '../../../../services/gateway/placement/locate.ts'
import { Code } from '../../../../shared/errors.ts'

const MIB = 2 ** 20
const count = (home: Home): number => home.reduce((sum, { experts }) => sum + experts.length, 0)
const space = (layers: number, experts: number) => ({
  layers: Array.from({ length: layers }, (_, i) => i + 1),
  experts,
  expertBytes: MIB,
})

describe('place', () => {
  it('deals to equal workers in turn', () => {
    const homes = place(space(2, 4), [{ memoryBytes: 100 * MIB }, { memoryBytes: 100 * MIB }])
    expect(homes).toEqual([
      [
        { layer: 1, experts: [0, 2] },
        { layer: 2, experts: [0, 2] },
      ],
      [
        { layer: 1, experts: [1, 3] },
        { layer: 2, experts: [1, 3] },
      ],
    ])
  })

  it('puts each expert in exactly one place, by memory, in every layer, for any workers', () => {
    for (let seed = 1; seed < 60; seed += 1) {
      const workers = Array.from({ length: 1 + (seed % 7) }, (_, i) => ({
        memoryBytes: (40 + ((seed * 31 + i * 17) % 200)) * MIB,
      }))
      const total = workers.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0)
      const shape = space(1 + (seed % 4), 8)
      const homes = place(shape, workers)
      expect(missing(shape, homes)).toEqual([])
      expect(homes.reduce((sum, home) => sum + count(home), 0)).toBe(shape.layers.length * 8)
      for (const [i, { memoryBytes }] of workers.entries()) {
        for (const layer of shape.layers) {
          const here = homes[i].find((held) => held.layer === layer)?.experts.length ?? 0
          expect(Math.abs(here - (8 * memoryBytes) / total)).toBeLessThan(2)
        }
      }
    }
  })

  it('fills workers to the last expert and refuses one more', () => {
    const workers = [{ memoryBytes: 5.9 * MIB }, { memoryBytes: 0 }, { memoryBytes: 3 * MIB }]
    expect(place(space(1, 8), workers).map(count)).toEqual([5, 0, 3])
    expect(() => place(space(1, 9), workers)).toThrow(/9 experts of 1\.0 MiB .* room for 8; add 1 MiB/)
  })
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
